"""What code for stock models asks of a model: argument and method names, outputs, errors, plain Trainer."""

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import Trainer, TrainingArguments

import hf_ssl_speech
from hf_ssl_speech import (
    SSLHubertForCTC,
    SSLHubertForPreTraining,
    SSLHubertForSequenceClassification,
    SSLHubertModel,
    SSLWav2Vec2Config,
    SSLWav2Vec2ForCTC,
    SSLWav2Vec2ForPreTraining,
    SSLWav2Vec2ForSequenceClassification,
    SSLWav2Vec2Model,
    to_transformers,
)

HEADS = [
    SSLWav2Vec2ForPreTraining,
    SSLHubertForPreTraining,
    SSLWav2Vec2ForCTC,
    SSLHubertForCTC,
    SSLWav2Vec2ForSequenceClassification,
    SSLHubertForSequenceClassification,
]


@pytest.mark.parametrize("our_class", [SSLWav2Vec2Model, SSLHubertModel, *HEADS])
def test_unknown_arguments_are_refused_and_tuples_given(our_class, make_tiny):
    model = make_tiny(our_class)
    with pytest.raises(TypeError, match="unexpected keyword argument 'langauge'"):
        model(torch.randn(1, 4_000), langauge="en")
    assert isinstance(model(torch.randn(1, 4_000), return_dict=False), tuple)


@pytest.mark.parametrize("our_class", HEADS)
def test_the_whole_encoder_can_be_frozen(our_class, make_tiny):
    model = make_tiny(our_class)
    model.freeze_base_model()
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning == {name for name, _ in model.named_parameters() if not name.startswith(model.base_model_prefix)}


def test_lengths_and_masks_of_frames_have_stock_names_and_values(make_tiny):
    ours = make_tiny(SSLHubertForCTC, vocab_size=7)
    stock = to_transformers(ours)
    lengths = torch.tensor([4_000, 2_345, 400])
    assert torch.equal(ours._get_feat_extract_output_lengths(lengths), stock._get_feat_extract_output_lengths(lengths))
    mask = (torch.arange(4_000) < lengths[:, None]).long()
    expected = stock._get_feature_vector_attention_mask(12, mask)
    assert torch.equal(ours._get_feature_vector_attention_mask(12, mask), expected)
    assert ours.config.num_feat_extract_layers == stock.config.num_feat_extract_layers == 7
    with pytest.raises(ValueError, match="num_feat_extract_layers is 6, but conv_dim names 7"):
        SSLWav2Vec2Config(num_feat_extract_layers=6)


def test_stocks_choice_of_a_reduction_is_refused_but_no_hindrance_in_a_stock_checkpoint(make_tiny, tmp_path):
    with pytest.raises(StrictDataclassError, match="ctc_loss_reduction is 'mean'"):
        SSLWav2Vec2Config(ctc_loss_reduction="mean")
    to_transformers(make_tiny(SSLWav2Vec2ForCTC, vocab_size=7)).save_pretrained(tmp_path)
    assert not hasattr(SSLWav2Vec2ForCTC.from_pretrained(tmp_path).config, "ctc_loss_reduction")


def test_weights_of_another_shape_are_a_runtime_error_as_in_transformers(make_tiny, tmp_path):
    make_tiny(SSLWav2Vec2ForCTC, vocab_size=7).save_pretrained(tmp_path)
    for kind in (RuntimeError, ValueError):
        with pytest.raises(kind, match="other shapes"):
            SSLWav2Vec2ForCTC.from_pretrained(tmp_path, vocab_size=9)


@pytest.mark.parametrize("our_class", [SSLWav2Vec2ForSequenceClassification, SSLHubertForSequenceClassification])
def test_classification_honours_the_config_and_takes_a_column_of_labels(our_class, make_tiny):
    model = make_tiny(our_class, num_labels=3)
    waveforms, labels = torch.randn(2, 4_000), torch.tensor([1, 2])
    plain = model(waveforms, labels=labels)
    assert plain.hidden_states is None
    torch.testing.assert_close(model(waveforms, labels=labels[:, None]).loss, plain.loss)
    model.config.output_hidden_states = True
    assert len(model(waveforms).hidden_states) == 4
    assert model(waveforms, output_hidden_states=False).hidden_states is None


@pytest.mark.parametrize("our_class", HEADS[2:])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_fine_tuning_without_given_masks_trains_the_mask_embedding_and_hides_no_padding(our_class, share, make_tiny):
    model = make_tiny(our_class, mask_time_prob=share, mask_feature_prob=0.3, mask_feature_length=4, vocab_size=7)
    waveforms = torch.randn(2, 16_000)
    attention_mask = (torch.arange(16_000) < torch.tensor([16_000, 8_000])[:, None]).long()
    frames, channels = model.base_model.draw_masks(waveforms, attention_mask)
    assert frames.shape == (2, 49) and channels.shape == (2, 32)
    assert frames.any() == (share > 0) and channels.any()
    assert not frames[1, model.num_frames(8_000) :].any()
    labels = torch.tensor([[1], [1]]) if our_class.__name__.endswith("ForCTC") else torch.tensor([1, 1])
    model.train()
    model(waveforms, attention_mask, labels=labels).loss.backward()
    embedding = model.base_model.masked_spec_embed
    assert bool(embedding.grad.any()) == (share > 0)  # a gradient of zero where nothing is hidden, as DDP wants it
    model.config.apply_spec_augment = False
    assert not any(mask.any() for mask in model.base_model.draw_masks(waveforms, attention_mask))
    short = model.base_model.draw_masks(waveforms[:, :1_000], None)[0]
    assert short.shape == (2, 2) and not short.any()


def test_classes_learnt_after_pretraining_do_not_inherit_its_masks(make_tiny, tmp_path):
    make_tiny(SSLHubertForPreTraining).save_pretrained(tmp_path / "pretrained")
    load = SSLHubertForSequenceClassification.from_pretrained
    assert load(tmp_path / "pretrained").config.mask_time_prob == 0.05
    assert load(tmp_path / "pretrained", mask_time_prob=0.8).config.mask_time_prob == 0.8
    load(tmp_path / "pretrained", mask_time_prob=0.3).save_pretrained(tmp_path / "classes")
    assert load(tmp_path / "classes").config.mask_time_prob == 0.3


@pytest.mark.parametrize("family", ["Wav2Vec2", "Hubert"])
def test_plain_trainer_gives_logits_to_compute_metrics(family, make_tiny, tmp_path):
    model = make_tiny(getattr(hf_ssl_speech, f"SSL{family}ForCTC"), vocab_size=7)
    rows = [{"input_values": torch.randn(length), "labels": torch.tensor([1, 2])} for length in (4_000, 5_000, 4_500)]
    seen = []

    def measure(prediction):
        seen.append(prediction)
        return {"logits": prediction.predictions.shape[-1]}

    args = TrainingArguments(
        output_dir=tmp_path, per_device_eval_batch_size=1, use_cpu=True, report_to="none", disable_tqdm=True,
        remove_unused_columns=False,
    )  # fmt: skip
    assert Trainer(model, args, eval_dataset=rows, compute_metrics=measure).evaluate()["eval_logits"] == 7
    assert isinstance(seen[0].predictions, np.ndarray) and len(seen[0].predictions) == 3
