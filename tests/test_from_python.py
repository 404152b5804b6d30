"""From Python: a trainer takes datasets as people have them, and leaves a record."""

import io
import json
import logging

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY, WAV2VEC2
from datasets import Audio, Dataset, DatasetDict, Features, Value
from test_training import SETTINGS
from transformers import Wav2Vec2FeatureExtractor

import hf_ssl_speech
from hf_ssl_speech import (
    HiddenFeatures,
    KMeansUnits,
    SpeechCTCTrainer,
    SpeechCTCTrainingArguments,
    SpeechPreTrainer,
    SpeechPreTrainingArguments,
    SSLHubertConfig,
    SSLHubertForPreTraining,
    SSLWav2Vec2Config,
    SSLWav2Vec2ForCTC,
    SSLWav2Vec2ForPreTraining,
    create_model_card,
    from_transformers,
    load_speech,
    make_processor,
    prepare_speech,
    to_transformers,
)
from hf_ssl_speech.data.preparing import prepare_stream

SECONDS = (1.5, 2.0, 2.5, 0.5)  # the last one is too short


def waves() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [(generator.normal(size=int(length * 16_000)) / 8).astype(np.float32) for length in SECONDS]


def encoded(wave: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, 16_000, format="wav")
    return file.getvalue()


def as_arrays(folder):
    return Dataset.from_list([{"audio": {"array": wave, "sampling_rate": 16_000}} for wave in waves()])


def as_bytes(folder, decode=False):
    rows = [{"audio": {"bytes": encoded(wave), "path": f"{i}.wav"}} for i, wave in enumerate(waves())]
    kind = {"audio": {"bytes": Value("binary"), "path": Value("string")}}
    return Dataset.from_list(rows, features=Features(kind)).cast_column("audio", Audio(decode=decode))


def as_decoded(folder):
    return as_bytes(folder, decode=True).rename_column("audio", "recording")


def as_paths(folder):
    for number, wave in enumerate(waves()):
        soundfile.write(folder / f"{number}.wav", wave, 16_000)
    return Dataset.from_list([{"path": str(folder / f"{number}.wav")} for number in range(len(SECONDS))])


def as_tensors(folder):
    return as_arrays(folder).with_format("torch")


def as_stream(folder):
    return as_arrays(folder).to_iterable_dataset()


def as_prepared(folder):
    return prepare_speech(as_arrays(folder), min_seconds=1)[0]


KINDS = [as_arrays, as_bytes, as_decoded, as_paths, as_tensors, as_stream, as_prepared]


@pytest.fixture
def make_trainer(tmp_path):
    def make(dataset, **settings):
        torch.manual_seed(0)
        model = SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config(**TINY, **WAV2VEC2))
        args = SpeechPreTrainingArguments(**{"output_dir": tmp_path / "run", **SETTINGS, "max_steps": 1, **settings})
        return SpeechPreTrainer(model, args, train_dataset=dataset)

    return make


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_pretraining_takes_a_dataset_with_audio_of_any_kind_and_leaves_a_record(kind, make_trainer, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(kind(tmp_path), buffer_seconds=8)
        trainer.train()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "complete" and record["updates"] == 1
    assert (tmp_path / "run" / "training.png").exists()
    assert trainer.tally.hours_seen * 3600 == pytest.approx(1.5 + 2.0 + 2.5)
    assert record["hours_seen"] == trainer.tally.hours_seen
    if kind not in (as_prepared, as_stream):
        assert record["data"]["train"]["skipped"]["num_skipped"] == 1
        assert "1 of 4 rows skipped: 1 too short (under 1.00 s)" in caplog.text


def test_a_run_that_breaks_says_so_in_its_record(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(as_arrays(tmp_path))
    monkeypatch.setattr(trainer.data_collator, "utterance", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed" and "division" in record["cause"]


def test_a_record_of_another_run_in_the_folder_is_not_continued(make_trainer, tmp_path):
    make_trainer(as_arrays(tmp_path)).train()
    path = tmp_path / "run" / "run.json"
    first = json.loads(path.read_text())
    path.write_text(json.dumps(first | {"seconds": 1e6}))
    make_trainer(as_arrays(tmp_path), learning_rate=2e-3).train()
    assert json.loads(path.read_text())["seconds"] < 1e5


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (lambda: [{"audio": b""}], TypeError, r"of type list.*`load_speech"),
        (lambda: DatasetDict(train=as_arrays(None)), TypeError, r"several splits, train: take one, as `dataset\['tra"),
        (lambda: Dataset.from_dict({"heard": ["a.wav"]}), ValueError, r"`dataset.rename_column\(COLUMN, 'audio'\)`"),
        (lambda: Dataset.from_dict({"audio": [[0.1, 0.2]]}), ValueError, r"`dataset.map\(lambda row: {'audio': {'arr"),
    ],
)
def test_data_that_cannot_be_used_are_an_error_that_names_the_call_to_make(dataset, error, message, make_trainer):
    with pytest.raises(error, match=message):
        make_trainer(dataset())


def test_hubert_without_units_names_the_call_that_makes_them(tmp_path):
    model = SSLHubertForPreTraining(SSLHubertConfig(**TINY, num_units=[10]))
    args = SpeechPreTrainingArguments(output_dir=tmp_path, **SETTINGS)
    with pytest.raises(ValueError, match=r"have no column units: label them first with `add_units\("):
        SpeechPreTrainer(model, args, train_dataset=as_arrays(tmp_path))


def ctc_trainer(train, evaluation, folder, **settings):
    processor = make_processor(["abc d"])
    tokenizer = processor.tokenizer
    model = SSLWav2Vec2ForCTC(
        SSLWav2Vec2Config(**TINY, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, mask_time_length=5)
    )
    fields = {**SETTINGS, "min_seconds": 1, "max_steps": 1, "eval_strategy": "no", "load_best_model_at_end": False}
    del fields["warmup_steps"]
    args = SpeechCTCTrainingArguments(output_dir=folder, **{**fields, **settings})
    return SpeechCTCTrainer(model, args, train, evaluation, processing_class=processor)


@pytest.mark.parametrize("kind", [as_arrays, as_decoded, as_paths, as_prepared], ids=lambda kind: kind.__name__)
def test_fine_tuning_takes_a_dataset_with_audio_of_any_kind_and_transcripts(kind, tmp_path):
    texts = ["A b!", "abc", "x", "d"]  # x is not in the vocabulary, the last audio is too short
    dataset = as_arrays(tmp_path) if kind is as_prepared else kind(tmp_path)
    dataset = dataset.add_column("sentence", texts)
    if kind is as_prepared:
        dataset, _ = prepare_speech(dataset, min_seconds=1, keep=["sentence"])
    trainer = ctc_trainer(dataset, {"one": dataset, "two": dataset}, tmp_path / "run")
    trainer.train()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert trainer.train_dataset["text"][:] == ["a b", "abc"]
    assert record["data"]["train"]["skipped"]["num_skipped"] == (1 if kind is as_prepared else 2)
    assert record["data"]["validation two"]["rows"] == 2
    metrics = trainer.evaluate()
    assert metrics["eval_one_wer"] == metrics["eval_two_wer"]
    predicted = trainer.predict(dataset).metrics
    assert predicted["test_wer"] == metrics["eval_one_wer"]
    assert predicted["test_loss"] == pytest.approx(metrics["eval_one_loss"])
    trainer.save_model()
    assert record["task"] == "ctc"
    assert "pipeline_tag: automatic-speech-recognition" in create_model_card(tmp_path / "run").content


def test_predict_in_pretraining_has_the_fixed_masks_of_an_evaluation(make_trainer, tmp_path):
    trainer = make_trainer(as_arrays(tmp_path))
    expected = trainer.evaluate(as_arrays(tmp_path))["eval_loss"]
    for epoch in (0, 3):
        trainer.data_collator.set_epoch(epoch)
        assert trainer.predict(as_arrays(tmp_path)).metrics["test_loss"] == expected


def test_streamed_transcripts_are_refused(tmp_path):
    with pytest.raises(TypeError, match="`streaming=False`"):
        ctc_trainer(as_stream(tmp_path), None, tmp_path)


@pytest.mark.parametrize(
    "name", ["compute_metrics", "preprocess_logits_for_metrics", "compute_loss_func", "model_init"]
)
def test_arguments_of_trainer_that_would_not_work_are_refused_by_name(name, tmp_path):
    model = SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config(**TINY, **WAV2VEC2))
    args = SpeechPreTrainingArguments(output_dir=tmp_path, **SETTINGS)
    with pytest.raises(ValueError, match=f"do not take {name}"):
        SpeechPreTrainer(model, args, **{name: print})


def test_a_search_over_hyperparameters_is_refused_by_name(make_trainer, tmp_path):
    with pytest.raises(ValueError, match="in a loop, make a model and a trainer"):
        make_trainer(as_arrays(tmp_path)).hyperparameter_search()


TEN_LINES = """
from transformers import AutoModel
from hf_ssl_speech import SpeechPreTrainer, SpeechPreTrainingArguments, SSLWav2Vec2Config, SSLWav2Vec2ForPreTraining
from hf_ssl_speech import load_speech

speech = load_speech("my_audio")  # a folder, Parquet files, a dataset of the Hub; or any `datasets` dataset
model = SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config.preset("tiny"))
args = SpeechPreTrainingArguments("my_model", max_steps=2, warmup_steps=1, batch_seconds=20, min_seconds=1)
trainer = SpeechPreTrainer(model, args, train_dataset=speech)
trainer.train()
trainer.save_model()
encoder = AutoModel.from_pretrained("my_model")
"""


def test_ten_lines_of_python_pretrain_a_model_that_auto_model_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_audio").mkdir()
    as_paths(tmp_path / "my_audio")
    made: dict = {}
    exec(TEN_LINES, made)
    encoder = made["encoder"]
    assert type(encoder).__name__ == "SSLWav2Vec2Model"
    weights = made["model"].base_model.state_dict()
    assert all(torch.equal(weight.cpu(), weights[name].cpu()) for name, weight in encoder.state_dict().items())
    assert {"run.json", "training.png", "config.json", "model.safetensors", "preprocessor_config.json"} <= {
        file.name for file in (tmp_path / "my_model").iterdir()
    }


def test_paths_may_be_path_objects(tmp_path):
    as_paths(tmp_path)
    by_path, by_name = load_speech(tmp_path), load_speech(str(tmp_path))
    assert by_path["id"][:] == by_name["id"][:] == load_speech([tmp_path / f"{i}.wav" for i in range(4)])["id"][:]
    folder = tmp_path / "a model"
    model = SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config(**TINY, **WAV2VEC2))
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    features = HiddenFeatures.from_pretrained(folder, 2, device="cpu")
    units = KMeansUnits.fit(prepare_speech(by_path, min_seconds=1)[0], features, num_units=4)
    units.save_pretrained(tmp_path / "units")
    assert torch.equal(KMeansUnits.from_pretrained(tmp_path / "units").centroids, units.centroids)
    to_transformers(model).save_pretrained(tmp_path / "stock")
    assert type(from_transformers(tmp_path / "stock")) is SSLWav2Vec2ForPreTraining
    assert "my-model" in create_model_card(folder, repo_id="me/my-model").content


def test_every_public_name_has_a_docstring():
    assert not [name for name in hf_ssl_speech.__all__ if not (getattr(hf_ssl_speech, name).__doc__ or "").strip()]


@pytest.mark.parametrize("config", [hf_ssl_speech.SSLWav2Vec2Config, hf_ssl_speech.SSLHubertConfig])
def test_a_configurations_docstring_describes_its_presets(config):
    for size in config.presets():
        assert f"`{size}`" in config.__doc__ or f'"{size}"' in config.__doc__, size


@pytest.mark.parametrize("cache", [False, True], ids=["encoded", "decoded"])
@pytest.mark.parametrize("form", ["torch", "pandas", "numpy", "arrow"])
def test_the_format_of_the_rows_changes_nothing(form, cache, make_trainer, tmp_path):
    plain = prepare_speech(as_arrays(tmp_path), min_seconds=1, cache=cache)[0]

    def batch(rows):
        return next(iter(make_trainer(rows).get_train_dataloader()))

    expected, found = batch(plain), batch(plain.with_format(form))
    assert torch.equal(found["input_values"], expected["input_values"])
    assert torch.equal(found["mask_time_indices"], expected["mask_time_indices"])


def test_a_stream_in_the_format_of_torch_trains_too(make_trainer):
    make_trainer(as_stream(None).with_format("torch"), buffer_seconds=8).train()


@pytest.mark.parametrize("prepared", [False, True])
def test_a_streamed_validation_set_is_refused(prepared, make_trainer, tmp_path):
    stream = as_stream(tmp_path)
    stream = prepare_stream(stream, min_seconds=1) if prepared else stream
    message = "rows are streamed, but an evaluation makes the same batches of all rows every time"
    trainer = make_trainer(as_arrays(tmp_path))
    for act in (trainer.evaluate, trainer.predict):
        with pytest.raises(TypeError, match=message):
            act(stream)
    model = SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config(**TINY, **WAV2VEC2))
    with pytest.raises(TypeError, match=message):
        SpeechPreTrainer(model, SpeechPreTrainingArguments(tmp_path, **SETTINGS), eval_dataset=stream)


def test_torch_datasets_missing_ones_and_epochs_of_a_stream_are_told_in_a_sentence(make_trainer, tmp_path):
    class Torch(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(TypeError, match=r"of type Torch, but a trainer takes a `datasets` dataset: .*from_list"):
        make_trainer(Torch())
    with pytest.raises(ValueError, match="no training data"):
        make_trainer(None).train()
    with pytest.raises(ValueError, match="no evaluation data"):
        make_trainer(as_arrays(tmp_path)).evaluate()
    with pytest.raises(ValueError, match="give max_steps instead of num_train_epochs"):
        make_trainer(as_stream(tmp_path), max_steps=-1, num_train_epochs=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_too_coarse_to_learn_are_refused_and_evaluated_all_the_same(dtype, tmp_path):
    model = SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config(**TINY, **WAV2VEC2)).to(dtype)
    args = SpeechPreTrainingArguments(tmp_path / "run", **SETTINGS)
    with pytest.raises(ValueError, match=r"weights are torch\.b?float16, .*: train `model\.float\(\)`"):
        SpeechPreTrainer(model, args, as_arrays(tmp_path))
    if dtype == torch.bfloat16:
        assert SpeechPreTrainer(model, args, eval_dataset=as_arrays(tmp_path)).evaluate()["eval_loss"] > 0


@pytest.mark.parametrize(("crop_to_frames", "warned"), [(16, True), (0, False)])
def test_short_utterances_of_many_lengths_are_no_good_for_batches_of_one(crop_to_frames, warned, make_trainer, caplog):
    waves = [np.random.default_rng(samples).normal(size=samples) / 8 for samples in range(3_000, 5_000, 400)]
    audio = [{"id": str(len(wave)), "audio": {"array": wave, "sampling_rate": 16_000}} for wave in waves]
    trainer = make_trainer(Dataset.from_list(audio), min_seconds=0.1, batch_seconds=4, crop_to_frames=crop_to_frames)
    with caplog.at_level(logging.WARNING):
        trainer.get_train_dataloader()
    assert ("set crop_to_frames to 0" in caplog.text) == warned
