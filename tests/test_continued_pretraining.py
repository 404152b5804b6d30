"""Continued pretraining: what a stock checkpoint brings, what starts fresh, and what is refused."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import HubertModel, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining, Wav2Vec2Model

from hf_ssl_speech import (
    SpeechPreTrainingArguments,
    SSLHubertConfig,
    SSLHubertForPreTraining,
    SSLWav2Vec2Config,
    SSLWav2Vec2Model,
    create_model_card,
    prepare_speech,
)
from hf_ssl_speech.data.data_facts import split_facts
from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.recipes.inputs import SpeechModelArguments, SpeechPreTrainingDataArguments
from hf_ssl_speech.recipes.pretraining import make_model, pretrain
from hf_ssl_speech.recipes.splits import Split
from hf_ssl_speech.recipes.starting_points import find_objective, hours_seen_by
from hf_ssl_speech.recipes.unit_labels import UnitLabels
from hf_ssl_speech.records import new_record, read_record, write_record


@pytest.fixture
def save_stock(make_tiny, tmp_path):
    """`save_stock(stock_class, **fields)`: the folder of a stock checkpoint as published ones are configured."""

    def save(stock_class, **fields) -> str:
        published = dict(mask_time_prob=0.05, hidden_dropout=0.1, layerdrop=0.0)
        make_tiny(stock_class, **{**published, **fields}).save_pretrained(tmp_path / "stock")
        return str(tmp_path / "stock")

    return save


@pytest.mark.parametrize("stock_class", [Wav2Vec2ForPreTraining, Wav2Vec2Model, Wav2Vec2ForCTC, HubertModel])
def test_the_objective_is_read_from_the_checkpoint_and_all_its_weights_are_taken(stock_class, save_stock):
    start = save_stock(stock_class)
    model_args = SpeechModelArguments(
        model_name_or_path=start, config={"num_units": [10]} if "Hub" in str(stock_class) else {}
    )
    model, stock = make_model(model_args), stock_class.from_pretrained(start)
    assert model.config.model_type == f"ssl-{stock.config.model_type}"
    assert find_objective(model_args) == stock.config.model_type
    encoder = model.base_model.state_dict()
    assert all(torch.equal(encoder[name], weight) for name, weight in stock.base_model.state_dict().items())
    if stock_class is Wav2Vec2ForPreTraining:
        assert all(torch.equal(model.state_dict()[name], weight) for name, weight in stock.state_dict().items())


def test_masks_dropouts_and_loss_weights_are_those_of_pretraining_not_of_the_stock_file(save_stock, architecture):
    large = architecture["feat_extract_norm"] == "layer"
    config = make_model(SpeechModelArguments(model_name_or_path=save_stock(Wav2Vec2Model, **architecture))).config
    preset = SSLWav2Vec2Config.preset("large" if large else "base")
    for name in (
        "mask_time_prob",
        "feature_penalty_weight",
        "feature_gradient_scale",
        "gumbel_temperature_end",
        "layerdrop",
    ):
        assert getattr(config, name) == getattr(preset, name), name
    assert config.hidden_size == 32  # the architecture stays the checkpoint's
    asked = SpeechModelArguments(model_name_or_path=save_stock(HubertModel), config={"mask_time_prob": 0.5})
    assert make_model(asked).config.mask_time_prob == 0.5
    assert make_model(asked).config.unit_embedding_dim == SSLHubertConfig().unit_embedding_dim


def test_only_a_fresh_codebook_begins_warm(save_stock):
    trained = make_model(SpeechModelArguments(model_name_or_path=save_stock(Wav2Vec2ForPreTraining))).config
    assert trained.gumbel_temperature_start == trained.gumbel_temperature_end == 0.5
    fresh = make_model(SpeechModelArguments(model_name_or_path=save_stock(Wav2Vec2Model)))
    assert fresh.config.gumbel_temperature_start == 2.0
    start = save_stock(Wav2Vec2ForPreTraining)
    asked = SpeechModelArguments(model_name_or_path=start, config={"gumbel_temperature_start": 1.5})
    assert make_model(asked).config.gumbel_temperature_start == 1.5


def test_hubert_gets_a_fresh_head_of_as_many_units_as_the_data_has(save_stock):
    model_args = SpeechModelArguments(model_name_or_path=save_stock(HubertModel))
    data_args = SpeechPreTrainingDataArguments(train_data=["x"], unit_columns=["units"])
    with pytest.raises(ValueError, match="The number of units in the columns units"):
        UnitLabels.load(model_args, data_args)
    assert make_model(model_args, num_units=[7]).unit_embeddings[0].weight.shape == (7, 256)


def test_other_units_get_a_fresh_head_and_the_encoder_stays(make_tiny, tmp_path, caplog):
    caplog.set_level("INFO")
    trained = make_tiny(SSLHubertForPreTraining, num_units=[10])
    trained.save_pretrained(tmp_path / "first")
    model_args = SpeechModelArguments(model_name_or_path=str(tmp_path / "first"))
    same, other = (make_model(model_args, num_units=[units]) for units in (10, 25))
    for name, weight in trained.state_dict().items():
        assert torch.equal(same.state_dict()[name], weight)
        assert torch.equal(other.state_dict()[name], weight) == name.startswith("hubert."), name
    assert other.config.num_units == [25] and other.unit_embeddings[0].weight.shape[0] == 25
    assert "only the encoder comes from" in caplog.text
    again = make_model(model_args, fresh_head=True, num_units=[10])
    assert not torch.equal(again.unit_embeddings[0].weight, trained.unit_embeddings[0].weight)


def test_hours_seen_count_those_of_the_start(tmp_path):
    first = {"hours_seen": 9.0, "start": {"source": None, "record": None}}
    second = {"hours_seen": 6.0, "start": {"source": "first", "record": first}}
    for name, record in (("first", first), ("second", second)):
        made = new_record("complete", {}, seconds=1.0, device=torch.device("cpu"), processes=1, **record)
        write_record(made, tmp_path / name)
    assert hours_seen_by(str(tmp_path / "first")) == 9 and hours_seen_by(str(tmp_path / "second")) == 15


def test_another_objective_and_other_sampling_rates_are_refused_in_a_sentence(save_stock, tmp_path):
    start = save_stock(HubertModel)
    with pytest.raises(ValueError, match="is a hubert checkpoint, but objective is wav2vec2: leave `objective` out"):
        make_model(SpeechModelArguments(model_name_or_path=start, objective="wav2vec2"))
    Wav2Vec2FeatureExtractor(sampling_rate=8_000).save_pretrained(start)
    with pytest.raises(ValueError, match="was trained at 8,000 Hz, but audio is read at 16,000 Hz"):
        feature_extractor_for(SSLHubertConfig(), start)


def test_a_continued_run_names_its_start_in_its_record_and_identity(save_stock, make_tiny, tmp_path):
    waves = np.random.default_rng(0).normal(size=(4, 16_000)) / 8
    rows = Dataset.from_list([{"audio": {"array": wave, "sampling_rate": 16_000}} for wave in waves])
    prepared = prepare_speech(rows, min_seconds=0.5)
    args = SpeechPreTrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=1, warmup_steps=0, batch_seconds=4, max_seconds=2, min_seconds=0.5,
        use_cpu=True, dataloader_num_workers=0, disable_tqdm=True,
    )  # fmt: skip
    start = save_stock(Wav2Vec2ForPreTraining)
    model = make_model(SpeechModelArguments(model_name_or_path=start))
    pretrain(model, args, Split(prepared[0], split_facts("noise", *prepared)), start=start)
    record = read_record(tmp_path / "run")
    assert record["start"] == {"source": start, "record": None} and record["identity"]["start"] == start
    card = create_model_card(tmp_path / "run").text
    assert "starting from an encoder that is not on the Hub" in card
    assert SSLWav2Vec2Model.from_pretrained(tmp_path / "run").config.mask_time_prob == 0.65
