"""The trainer and what surrounds it: counts, evaluation, health, checks before the first step, the record."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY, WAV2VEC2
from datasets import Dataset
from transformers import ProgressCallback, TrainerCallback, TrainerState, Wav2Vec2FeatureExtractor

from hf_ssl_speech import (
    SpeechPreTrainer,
    SpeechPreTrainingArguments,
    SSLWav2Vec2Config,
    SSLWav2Vec2ForPreTraining,
    prepare_speech,
)
from hf_ssl_speech.commands.ending import tidy_errors
from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.data.data_facts import split_facts
from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.data.preparing import prepare_stream
from hf_ssl_speech.recipes.inputs import SpeechModelArguments
from hf_ssl_speech.recipes.pretraining import make_model, pretrain
from hf_ssl_speech.recipes.splits import Split
from hf_ssl_speech.records import command_line, read_record, write_record
from hf_ssl_speech.training import record_keeper
from hf_ssl_speech.training.callbacks import ProgressLine
from hf_ssl_speech.training.lock import hold
from hf_ssl_speech.training.outcomes import UnhealthyRun
from hf_ssl_speech.training.record_keeper import RecordKeeper, draw_training
from hf_ssl_speech.training.resume import differences, find_checkpoint, recorded_identity, run_identity

SETTINGS = dict(
    batch_seconds=8, max_seconds=4, min_seconds=1, max_steps=2, learning_rate=1e-3, warmup_steps=0, logging_steps=1,
    save_strategy="no", use_cpu=True, disable_tqdm=True, dataloader_num_workers=0, seed=1,
)  # fmt: skip


def noise_rows(seconds) -> Dataset:
    generator = np.random.default_rng(0)
    waves = [generator.normal(size=int(length * 16_000)) / 8 for length in seconds]
    rows = [{"id": f"noise-{i}", "audio": {"array": wave, "sampling_rate": 16_000}} for i, wave in enumerate(waves)]
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def rows():
    return prepare_speech(noise_rows([1.5, 2.0, 2.5, 3.0, 3.5, 6.0]), min_seconds=1, cache=True)


def trainer_of(dataset, output_dir, config=None, evaluation=None, **settings) -> SpeechPreTrainer:
    torch.manual_seed(0)
    model = SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config(**{**TINY, **WAV2VEC2, **(config or {})}))
    arguments = SpeechPreTrainingArguments(**{"output_dir": str(output_dir), **SETTINGS, **settings})
    return SpeechPreTrainer(model, arguments, train_dataset=dataset, eval_dataset=evaluation)


@pytest.fixture
def make_trainer(tmp_path, rows):
    def make(dataset=None, config=None, evaluation=None, output_dir=tmp_path / "run", **settings):
        return trainer_of(dataset or rows[0], output_dir, config, evaluation, **settings)

    return make


def test_hours_seen_count_real_audio_after_the_crop_and_no_padding(make_trainer):
    trainer = make_trainer(num_train_epochs=1, max_steps=-1)
    trainer.train()
    assert trainer.tally.hours_seen * 3600 == pytest.approx(1.5 + 2.0 + 2.5 + 3.0 + 3.5 + 4.0)


def test_every_log_carries_the_metrics_of_the_objective(make_trainer):
    trainer = make_trainer()
    trainer.train()
    log = trainer.state.log_history[0]
    for name in (
        "loss", "contrastive_loss", "diversity_loss", "feature_penalty", "accuracy", "masked_share", "grad_norm",
        "soft_perplexity_1", "soft_perplexity_2", "hard_perplexity_1", "hard_perplexity_2", "hours_seen",
        "audio_seconds_per_second",
    ):  # fmt: skip
        assert np.isfinite(log[name]), name
    config = trainer.model.config
    parts = log["contrastive_loss"] + config.diversity_loss_weight * log["diversity_loss"]
    assert log["loss"] == pytest.approx(parts + config.feature_penalty_weight * log["feature_penalty"], rel=1e-4)
    assert 1 <= log["hard_perplexity_1"] <= 8


def test_evaluation_has_fixed_masks_and_does_not_depend_on_the_batches(make_trainer, rows):
    first = make_trainer(evaluation=rows[0])
    small = make_trainer(evaluation=rows[0], batch_seconds=4)
    small.model.load_state_dict(first.model.state_dict())
    metrics = first.evaluate()
    assert first.evaluate()["eval_accuracy"] == metrics["eval_accuracy"]
    for name in ("eval_contrastive_loss", "eval_accuracy", "eval_feature_penalty", "eval_soft_perplexity_1"):
        assert small.evaluate()[name] == pytest.approx(metrics[name], rel=1e-5), name


def test_a_row_that_turns_out_unusable_changes_no_update_and_is_named(make_trainer, tmp_path):
    good = noise_rows([2.0, 3.0])
    encoded = []
    for index, one in enumerate(good):
        soundfile.write(tmp_path / f"{index}.wav", one["audio"]["array"], 16_000)
        encoded.append(
            {"id": f"good-{index}", "audio": {"path": None, "bytes": (tmp_path / f"{index}.wav").read_bytes()}}
        )
    soundfile.write(tmp_path / "silent.wav", np.zeros(32_000), 16_000)
    silent = {"id": "silent", "audio": {"path": None, "bytes": (tmp_path / "silent.wav").read_bytes()}}
    losses = []
    for dataset in (encoded, [*encoded, silent]):
        prepared, _ = prepare_speech(Dataset.from_list(dataset), min_seconds=1)
        trainer = make_trainer(prepared, config={"diversity_loss_weight": 0.0}, batch_seconds=12, max_steps=3)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert trainer.skipped_rows == {"silent": "silent: all samples are equal"}


def test_a_stream_trains_too(make_trainer):
    stream = noise_rows([1.5, 2.0, 2.5, 3.0, 0.5]).to_iterable_dataset()
    trainer = make_trainer(prepare_stream(stream, min_seconds=1), max_steps=7, buffer_seconds=8)
    trainer.train()
    assert trainer.state.global_step == 7  # more than one round of the stream
    assert trainer.tally.hours_seen > 0


def test_a_stream_without_a_usable_row_is_an_error(make_trainer):
    stream = noise_rows([0.5]).to_iterable_dataset()
    with pytest.raises(ValueError, match="no usable row"):
        make_trainer(prepare_stream(stream, min_seconds=1), buffer_seconds=8).train()


def test_a_trainer_leaves_the_callers_arguments_as_they_are(make_trainer, rows, tmp_path):
    arguments = SpeechPreTrainingArguments(output_dir=str(tmp_path / "run"), **SETTINGS)
    before = vars(arguments).copy()
    SpeechPreTrainer(make_trainer().model, arguments, rows[0])
    assert vars(arguments) == before


def test_processes_exchange_gradients_where_they_lie_and_search_no_graph_for_them(make_trainer):
    settings = make_trainer().accelerator.ddp_handler.to_kwargs()
    assert settings["gradient_as_bucket_view"] and not settings.get("find_unused_parameters")


# Before the first step -------------------------------------------------------------------------------------------


def test_an_output_folder_with_another_run_is_an_error_that_names_the_difference(make_trainer, rows):
    trainer = make_trainer()
    facts = split_facts("noise", *rows)
    identity = run_identity(trainer.model.config, {"train": facts["fingerprint"]}, trainer.args)
    assert find_checkpoint(identity, trainer.args) is None
    trainer.add_callback(RecordKeeper(trainer, identity, {"train": facts}))
    trainer.train()

    with pytest.raises(ValueError, match="is complete"):
        find_checkpoint(identity, trainer.args)
    other = run_identity(SSLWav2Vec2Config(**{**TINY, **WAV2VEC2, "num_negatives": 9}), identity["data"], trainer.args)
    with pytest.raises(ValueError, match=r"another run \(config.num_negatives: 5 there, 9 here\)"):
        find_checkpoint(other, trainer.args)


@pytest.fixture(scope="module")
def killed(rows, tmp_path_factory) -> tuple[dict, Path]:
    """A run of two updates with a checkpoint, as if it had been killed then; facts of its data, and its folder."""
    folder, facts = tmp_path_factory.mktemp("killed"), split_facts("noise", *rows)
    trainer = trainer_of(rows[0], folder, save_strategy="steps", save_steps=2)
    identity = run_identity(trainer.model.config, {"train": facts["fingerprint"]}, trainer.args)
    keeper = RecordKeeper(trainer, identity, {"train": facts})
    trainer.add_callback(keeper)
    trainer.train()
    keeper.keep("running")
    return facts, folder


@pytest.fixture
def begun(killed, tmp_path) -> tuple[dict, Path]:
    """A copy of it, in the folder of `make_trainer`."""
    return killed[0], shutil.copytree(killed[1], tmp_path / "run")


def test_a_folder_with_the_beginning_of_this_run_is_gone_on_from(make_trainer, rows, tmp_path):
    trainer = make_trainer(max_steps=4, save_strategy="steps", save_steps=2)
    facts = split_facts("noise", *rows)
    identity = run_identity(trainer.model.config, {"train": facts["fingerprint"]}, trainer.args)
    keeper = RecordKeeper(trainer, identity, {"train": facts})
    trainer.add_callback(keeper)
    trainer.train()
    keeper.keep("running")  # as if it had been killed
    assert find_checkpoint(identity, trainer.args).endswith("checkpoint-4")

    weights = tmp_path / "run" / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])  # as if it had been killed while writing
    assert find_checkpoint(identity, trainer.args).endswith("checkpoint-2")
    trainer.args.resume_from_checkpoint = str(weights.parent)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        find_checkpoint(identity, trainer.args)


def test_a_run_without_a_whole_checkpoint_begins_anew_and_says_so_once(begun, make_trainer, caplog):
    facts, folder = begun
    (folder / "checkpoint-2" / "optimizer.pt").unlink()
    trainer = make_trainer()
    identity = run_identity(trainer.model.config, {"train": facts["fingerprint"]}, trainer.args)
    assert find_checkpoint(identity, trainer.args) is None
    assert [record.getMessage().removesuffix(".").rpartition(": ")[2] for record in caplog.records] == [
        "optimizer.pt is missing", "the run begins anew",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("adam_beta1", 0.8), ("adam_beta2", 0.9), ("adam_epsilon", 1e-3), ("max_grad_norm", 1.0), ("optim", "sgd"),
        ("lr_scheduler_type", "cosine"), ("learning_rate", 1e-4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("named", [False, True], ids=["same folder", "named checkpoint"])
def test_no_setting_that_changes_the_weights_may_change_on_a_resume(name, value, named, begun, make_trainer, tmp_path):
    facts, folder = begun
    other = make_trainer(**{name: value}, output_dir=str(tmp_path / ("elsewhere" if named else "run")))
    if named:
        other.args.resume_from_checkpoint = str(folder / "checkpoint-2")
    identity = run_identity(other.model.config, {"train": facts["fingerprint"]}, other.args)
    with pytest.raises(ValueError, match=rf"another run \(recipe.{name}.*--model_name_or_path .*checkpoint-2"):
        find_checkpoint(identity, other.args)


def test_intervals_that_change_on_a_resume_hold_and_are_told(make_trainer, caplog):
    often = dict(save_strategy="steps", lr_scheduler_type="constant", save_total_limit=None)
    make_trainer(max_steps=4, save_steps=4, logging_steps=4, **often).train()
    trainer = make_trainer(max_steps=8, save_steps=2, logging_steps=1, **often)
    with caplog.at_level("INFO"):
        trainer.train(resume_from_checkpoint=True)
    assert "From update 4 on, logging_steps is 1 (before: 4), save_steps is 2 (before: 4)." in caplog.text
    folder = Path(trainer.args.output_dir)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6", "checkpoint-8"]
    assert [log["step"] for log in trainer.state.log_history if "loss" in log] == [1, 4, 5, 6, 7, 8]


def test_intervals_that_are_the_same_shares_as_before_are_no_change(make_trainer, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    settings = dict(save_strategy="steps", max_steps=4, save_steps=0.5, logging_steps=0.25)
    make_trainer(**settings).train()
    trainer = make_trainer(**settings)
    with caplog.at_level("INFO"):
        trainer.train(resume_from_checkpoint=str(Path(trainer.args.output_dir, "checkpoint-2")))
    assert "do not match" not in caplog.text and "From update" not in caplog.text


def test_a_resume_from_python_with_another_recipe_is_refused_too(make_trainer):
    settings = dict(save_strategy="steps", save_steps=2, max_steps=4)
    make_trainer(**settings).train()
    other = make_trainer(**settings, adam_beta2=0.9)
    with pytest.raises(ValueError, match=r"another recipe \(recipe.adam_beta2: 0.98 there, 0.9 here\)"):
        other.train(resume_from_checkpoint=str(Path(other.args.output_dir, "checkpoint-2")))


@pytest.mark.parametrize(("optim", "recorded"), [("sgd", (None, None, None)), ("adamw_torch", (0.9, 0.98, 1e-6))])
def test_the_record_has_adams_settings_where_adam_was_the_optimizer(optim, recorded, make_trainer, tmp_path):
    make_trainer(optim=optim, max_steps=1).train()
    recipe = read_record(tmp_path / "run")["recipe"]
    assert tuple(recipe[name] for name in ("adam_beta1", "adam_beta2", "adam_epsilon")) == recorded


def test_an_optimizer_given_in_python_is_recorded_by_its_class(make_trainer, rows, tmp_path):
    trainer = make_trainer(max_steps=1)
    optimizer = torch.optim.RMSprop(trainer.model.parameters(), lr=0.25)
    SpeechPreTrainer(trainer.model, trainer.args, rows[0], optimizers=(optimizer, None)).train()
    recipe = read_record(tmp_path / "run")["recipe"]
    assert (recipe["optim"], recipe["learning_rate"], recipe["adam_beta1"]) == ("RMSprop", 0.25, None)


def test_the_best_of_several_validation_sets_needs_the_name_of_one(make_trainer, rows):
    best = dict(eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True)
    sets = {"clean": rows[0], "other": rows[0]}
    also_asks = dict(eval_strategy="steps", eval_steps=1, lr_scheduler_type="reduce_lr_on_plateau")
    for asks in (best, also_asks, dict(eval_strategy="steps", metric_for_best_model="eval_clean_wer")):
        with pytest.raises(ValueError, match=r"which of the validation sets clean, other it is, as in eval_clean_loss"):
            make_trainer(evaluation=sets, **asks)
    make_trainer(evaluation=sets, **best, metric_for_best_model="eval_other_loss")


def test_a_metric_that_no_evaluation_tells_is_refused_at_the_start(make_trainer, rows):
    with pytest.raises(ValueError, match=r"'wer', which no evaluation here tells: take one of loss, .*accuracy"):
        make_trainer(evaluation=rows[0], eval_strategy="steps", eval_steps=1, metric_for_best_model="wer")


def test_the_names_of_the_metrics_are_those_that_an_evaluation_tells(make_trainer, rows):
    trainer = make_trainer(evaluation=rows[0])
    told = {name.removeprefix("eval_") for name in trainer.evaluate()}
    names = {*trainer.model.metric_names, *trainer.own_metrics}
    assert told - {"runtime", "samples_per_second", "steps_per_second", "epoch"} == names


def test_a_notebook_gets_one_progress_bar(make_trainer, monkeypatch):
    class NotebookBar(TrainerCallback):
        pass

    monkeypatch.setattr("transformers.trainer.DEFAULT_PROGRESS_CALLBACK", NotebookBar)
    callbacks = make_trainer(disable_tqdm=False).callback_handler.callbacks
    bars = [type(each).__name__ for each in callbacks if isinstance(each, ProgressCallback | NotebookBar)]
    assert bars == ["ProgressLine"]


def test_a_record_from_before_epochs_were_a_length_of_their_own_is_gone_on_from(begun, make_trainer):
    facts, folder = begun
    record = read_record(folder)
    record["identity"]["recipe"]["num_train_epochs"] = record["recipe"]["num_train_epochs"] = 3.0
    write_record(record, folder)
    trainer = make_trainer()
    identity = run_identity(trainer.model.config, {"train": facts["fingerprint"]}, trainer.args)
    assert find_checkpoint(identity, trainer.args).endswith("checkpoint-2")


def test_devices_and_precision_may_change_on_a_resume(begun, make_trainer):
    facts, _ = begun
    other = make_trainer(batch_seconds=4, gradient_accumulation_steps=2, bf16=True)
    identity = run_identity(other.model.config, {"train": facts["fingerprint"]}, other.args)
    assert find_checkpoint(identity, other.args).endswith("checkpoint-2")


def test_a_record_of_an_earlier_version_is_compared_by_all_that_it_holds(begun, make_trainer):
    facts, folder = begun
    record = read_record(folder)
    for name in ("adam_beta1", "optim"):
        record["identity"]["recipe"].pop(name)
    record["recipe"].pop("optim")
    assert record["identity"]["config"].pop("feat_extract_filters") == "learned"
    write_record(record, folder)
    for settings, agrees in (({}, True), ({"optim": "sgd"}, True), ({"adam_beta1": 0.8}, False)):
        other = make_trainer(**settings)
        identity = run_identity(other.model.config, {"train": facts["fingerprint"]}, other.args)
        assert (differences(recorded_identity(record, identity), identity) == []) == agrees
    identity["config"]["feat_extract_filters"] = "mel"
    (found,) = (each for each in differences(recorded_identity(record, identity), identity) if "config" in each)
    assert found == "config.feat_extract_filters: 'learned' there, 'mel' here"


def test_a_checkpoint_without_its_record_is_not_resumed(begun, make_trainer):
    facts, folder = begun
    (folder / "run.json").unlink()
    other = make_trainer(resume_from_checkpoint=str(folder / "checkpoint-2"))
    identity = run_identity(other.model.config, {"train": facts["fingerprint"]}, other.args)
    with pytest.raises(ValueError, match=r"no run\.json beside"):
        find_checkpoint(identity, other.args)


def test_a_new_run_goes_on_from_a_checkpoints_weights_with_another_recipe(begun, rows, tmp_path):
    facts, folder = begun
    start = str(folder / "checkpoint-2")
    model = make_model(SpeechModelArguments(model_name_or_path=start))
    settings = {**SETTINGS, "learning_rate": 1e-5, "lr_scheduler_type": "constant"}
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    saved = SSLWav2Vec2ForPreTraining.from_pretrained(start).state_dict()
    assert all(torch.equal(weight, saved[name]) for name, weight in before.items())
    args = SpeechPreTrainingArguments(output_dir=str(tmp_path / "gentler"), **settings)
    trainer = pretrain(model, args, Split(rows[0], facts))
    assert [log["learning_rate"] for log in trainer.state.log_history if "loss" in log] == [1e-5, 1e-5]
    # Adam's first steps are at most as long as the learning rate, and the weights are far from new ones.
    moved = max((weight - before[name]).abs().max().item() for name, weight in trainer.model.named_parameters())
    assert 0 < moved < 1e-4


def test_an_output_folder_with_something_else_is_an_error(make_trainer, tmp_path):
    trainer = make_trainer()
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "run.json").write_text('{"format": 1}')
    identity = run_identity(trainer.model.config, {"train": "0"}, trainer.args)
    with pytest.raises(ValueError, match="something else than a training run"):
        find_checkpoint(identity, trainer.args)


def test_a_run_that_fails_says_why_in_its_record(make_trainer, rows, tmp_path):
    trainer = make_trainer(learning_rate=1e30, max_steps=5)
    facts = split_facts("noise", *rows)
    with pytest.raises(UnhealthyRun):
        pretrain(trainer.model, trainer.args, Split(rows[0], facts))
    record = read_record(tmp_path / "run")
    assert record["status"] == "failed" and "diverged" in record["cause"]


def test_bfloat16_trains_and_a_bfloat16_checkpoint_runs(make_trainer, rows):
    trainer = make_trainer(bf16=True)
    trainer.train()
    assert np.isfinite(trainer.state.log_history[0]["loss"])
    half = trainer.model.to(torch.bfloat16).train()
    batch = trainer.data_collator([rows[0][0], rows[0][1]])
    batch.pop("skipped_rows")
    batch["input_values"] = batch["input_values"].to(torch.bfloat16)
    assert half(**batch).loss.isfinite()


def test_the_record_tells_what_was_done_and_a_picture_shows_it(make_trainer, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(record_keeper, "draw_training", draw_training)
    trainer = make_trainer(evaluation=rows[0], eval_strategy="steps", eval_steps=1)
    facts = split_facts("noise", *rows)
    identity = run_identity(trainer.model.config, {"train": facts["fingerprint"]}, trainer.args)
    trainer.add_callback(RecordKeeper(trainer, identity, {"train": facts}))
    trainer.train()
    record = read_record(tmp_path / "run")
    assert record["status"] == "complete"
    assert record["updates"] == 2
    assert record["hours_seen"] == trainer.tally.hours_seen
    assert record["data"]["train"]["hours"] == pytest.approx(18.5 / 3600)
    assert record["recipe"]["learning_rate"] == 1e-3
    assert record["curves"] == json.loads(json.dumps(trainer.state.log_history))
    assert (tmp_path / "run" / "training.png").stat().st_size > 10_000


def test_a_run_that_goes_on_gets_a_picture_once_a_minute_and_one_of_its_end(make_trainer, monkeypatch):
    drawn = []
    monkeypatch.setattr(record_keeper, "draw_training", lambda record, path: drawn.append(record["updates"]))
    trainer = make_trainer(save_strategy="steps", save_steps=1, max_steps=3)
    trainer.add_callback(RecordKeeper(trainer, {"model_type": "ssl-wav2vec2"}, {}))
    trainer.train()
    assert drawn == [1, 3]


class Obstruct(TrainerCallback):
    """Puts folders where record and picture are to be written, and takes them away after some updates."""

    def __init__(self, folder):
        self.obstacles = [folder / "run.json.partial", folder / "training.png"]

    def on_step_end(self, args, state, control, **kwargs):
        for path in self.obstacles:
            if state.global_step == 1:
                path.unlink(missing_ok=True)
                path.mkdir()
            elif state.global_step == 4:
                path.rmdir()


def test_a_record_or_picture_that_cannot_be_written_ends_no_training(make_trainer, rows, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(record_keeper, "PICTURE_SECONDS", 0)
    trainer = make_trainer(evaluation=rows[0], eval_strategy="steps", eval_steps=1, max_steps=4)
    trainer.add_callback(Obstruct(tmp_path / "run"))
    trainer.add_callback(RecordKeeper(trainer, {"model_type": "ssl-wav2vec2"}, {}))
    trainer.train()
    assert caplog.text.count("record can't be written") == 1
    assert read_record(tmp_path / "run")["status"] == "complete" and (tmp_path / "run" / "training.png").is_file()


# Arguments -------------------------------------------------------------------------------------------------------


def test_hours_per_update_stay_the_same_on_any_number_of_devices(monkeypatch, tmp_path):
    for devices, accumulation in ((1, 64), (8, 8), (64, 1), (48, 2)):
        monkeypatch.setattr(SpeechPreTrainingArguments, "world_size", devices)
        arguments = SpeechPreTrainingArguments(output_dir=str(tmp_path), hours_per_update=1.5556, use_cpu=True)
        assert arguments.gradient_accumulation_steps == accumulation
        assert arguments.batch_seconds * arguments.batches_per_update / 3600 == pytest.approx(1.5556)
        assert arguments.batch_seconds <= 87.6


def test_the_command_line_wins_over_the_yaml_and_unknown_names_are_errors(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("objective: wav2vec2\npreset: tiny\nconfig: {num_negatives: 50}\n")
    (arguments,) = parse_arguments([str(config), "--preset", "small"], SpeechModelArguments)
    assert (arguments.preset, arguments.config) == ("small", {"num_negatives": 50})
    with pytest.raises(ValueError, match=r"no argument --presett. Did you mean --preset\?"):
        parse_arguments([str(config), "--presett", "small"], SpeechModelArguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_seconds": 20, "batch_seconds": 10}, "raise batch_seconds"),
        ({"min_seconds": 20, "max_seconds": 10}, "above max_seconds"),
        ({"hours_per_update": 0.001}, "less than one utterance"),
    ],
)
def test_settings_that_contradict_each_other_are_errors(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SpeechPreTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)


def test_a_mistake_in_a_models_config_ends_a_script_with_its_message_alone():
    with pytest.raises(SystemExit, match="hidden_size 50 does not split into 4 heads"), tidy_errors():
        SSLWav2Vec2Config.preset("tiny", hidden_size=50)


SCRIPT_OF_SEVERAL_PROCESSES = """
import atexit, os, sys, threading, time, torch
from hf_ssl_speech.commands.ending import tidy_errors

class Teardown:
    def __del__(self, write=os.write):
        write(2, b"torn down")

left_to_the_interpreter = Teardown()
atexit.register(print, "exit function")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
with tidy_errors():
    torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
    if sys.argv[2] == "mistake":
        raise ValueError("a mistake")
"""


@pytest.mark.parametrize(("ending", "code"), [("done", 0), ("mistake", 1)])
def test_a_process_of_several_ends_with_its_exit_functions_and_output_but_without_the_interpreters_teardown(
    ending, code, tmp_path
):
    command = [sys.executable, "-c", SCRIPT_OF_SEVERAL_PROCESSES, str(tmp_path / "store"), ending]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == code, result.stderr
    said = [line for line in result.stdout.split("\n") if not line.startswith("[Gloo]")]  # as torch 2.9 does
    assert said == ["thread", "exit function", ""]
    assert ("ValueError: a mistake" in result.stderr) == (ending == "mistake")
    assert ("torn down" in result.stderr) == (ending == "mistake")


def test_a_model_starts_with_the_feature_extractor_of_its_checkpoint_where_that_has_one(tmp_path):
    config = SSLWav2Vec2Config.preset("tiny")  # group norm
    assert not feature_extractor_for(config, str(tmp_path)).do_normalize
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    assert feature_extractor_for(config, str(tmp_path)).do_normalize


def test_a_token_on_the_command_line_stays_out_of_the_record(monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["pretrain.py", "a.yaml", "--hub_token", "hf_secret", "--token=hf_secret", "--x", "1"]
    )
    assert command_line() == "pretrain.py a.yaml --hub_token ... --token=... --x 1"


def test_a_run_that_is_complete_says_so_and_ends_with_code_0(begun, make_trainer, capsys):
    facts, folder = begun
    write_record(read_record(folder) | {"status": "complete"}, folder)
    other = make_trainer()
    identity = run_identity(other.model.config, {"train": facts["fingerprint"]}, other.args)
    with tidy_errors():
        find_checkpoint(identity, other.args)
    assert f"The run in {folder} is complete (2 updates)" in capsys.readouterr().out


HOLDER = """
import sys, time
from hf_ssl_speech.training import record_keeper
from hf_ssl_speech.training.callbacks import ProgressLine
from hf_ssl_speech.training.lock import hold

hold(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_run_in_a_folder_is_refused_by_name_until_the_first_is_gone(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"process {first.pid} on .*, since 20"):
            hold(tmp_path)
    finally:
        first.kill()
        first.wait()
    hold(tmp_path)
    hold(tmp_path)  # the same run: a later stage of it


def test_a_line_of_the_log_has_the_figures_that_tell_how_it_goes():
    line, bar = ProgressLine(), mock.Mock()
    line.training_bar = bar
    state = TrainerState(global_step=1200, is_world_process_zero=True)
    logs = {"loss": 4.5, "contrastive_loss": 4.4, "accuracy": 0.12, "chance": 0.01, "grad_norm": 0.1, "epoch": 3}
    line.on_log(None, state, None, logs | {"hours_seen": 1.5, "audio_seconds_per_second": 60.0})
    line.on_log(None, state, None, {"eval_loss": 2.0, "eval_wer": 0.5, "eval_variety": 1.0, "eval_runtime": 9.0})
    lines = [call.args[0] for call in bar.write.call_args_list]
    assert lines[0] == "update   1,200 | loss 4.5  accuracy 0.12  chance 0.01 | 1.50 h seen, 60 audio-s/s"
    assert lines[1] == "eval     1,200 | loss 2  wer 0.5"


def test_of_a_stream_the_workers_that_share_out_its_rows_must_agree(tmp_path):
    def identity(fingerprint, workers):
        args = SpeechPreTrainingArguments(str(tmp_path), **SETTINGS | {"dataloader_num_workers": workers})
        return run_identity(SSLWav2Vec2Config(), {"train": fingerprint}, args)

    assert differences(identity("stream of audio", 0), identity("stream of audio", 2)) == [
        "recipe.dataloader_num_workers: 0 there, 2 here"
    ]
    assert not differences(identity("rows", 0), identity("rows", 2))
