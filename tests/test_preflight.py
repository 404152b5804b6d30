"""The checks before a run: what they find, what follows, and that they leave nothing behind."""

import random
import re

import numpy as np
import pytest
import torch
from conftest import TINY, WAV2VEC2
from datasets import Dataset
from test_training import SETTINGS, noise_rows

from hf_ssl_speech import (
    SpeechCTCTrainingArguments,
    SpeechPreTrainer,
    SpeechPreTrainingArguments,
    SSLHubertConfig,
    SSLHubertForPreTraining,
    SSLWav2Vec2Config,
    SSLWav2Vec2ForPreTraining,
    prepare_speech,
)
from hf_ssl_speech.commands.ending import tidy_errors
from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.data.batching import DurationBatchSampler
from hf_ssl_speech.data.data_facts import SkipReport, split_facts, stream_facts
from hf_ssl_speech.data.preparing import prepare_stream
from hf_ssl_speech.recipes.inputs import (
    SpeechCTCModelArguments,
    SpeechDataArguments,
    SpeechModelArguments,
    SpeechPreTrainingDataArguments,
    SpeechTextArguments,
)
from hf_ssl_speech.recipes.pretraining import pretrain
from hf_ssl_speech.recipes.splits import Split
from hf_ssl_speech.recipes.unit_labels import UnitLabels
from hf_ssl_speech.training.checks import (
    check_batches,
    check_disk,
    check_evaluations,
    check_masks,
    check_precision,
    check_rows,
    check_schedule,
    check_transcripts,
    run_size,
)
from hf_ssl_speech.training.dry_step import check_memory, leaving_no_trace
from hf_ssl_speech.training.findings import Finding, table
from hf_ssl_speech.training.paper_settings import published_seconds_per_update
from hf_ssl_speech.training.precision import cpu_computes_bf16

UNSTEADY = dict(layerdrop=0.3, hidden_dropout=0.1, attention_dropout=0.1, activation_dropout=0.1, feat_proj_dropout=0.1)


@pytest.fixture(scope="module")
def rows():
    return prepare_speech(noise_rows([1.5, 2.0, 2.5, 3.0, 3.5, 6.0]), min_seconds=1, cache=True)


@pytest.fixture
def make_arguments(tmp_path):
    def make(kind=SpeechPreTrainingArguments, **settings):
        return kind(**{"output_dir": str(tmp_path / "run"), **SETTINGS, **settings})

    return make


@pytest.fixture
def make_trainer(make_arguments, rows):
    def make(dataset=None, hubert=False, config=None, units=(), **settings):
        torch.manual_seed(0)
        if hubert:
            fields = dict(num_units=[10], unit_embedding_dim=12)
            model = SSLHubertForPreTraining(SSLHubertConfig(**{**TINY, **fields, **(config or {})}))
        else:
            model = SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config(**{**TINY, **WAV2VEC2, **(config or {})}))
        return SpeechPreTrainer(
            model, make_arguments(**settings), train_dataset=rows[0] if dataset is None else dataset
        )

    return make


def level_of(finding: Finding, *words: str) -> str:
    for word in words:
        assert word in finding.finding
    return finding.level


# Data ----------------------------------------------------------------------------------------------------------------


def facts_with(skipped: int, **more):
    report = SkipReport(100, {"too short": [str(index) for index in range(skipped)]} if skipped else {})
    return {"rows": 100 - skipped, "hours": 1.0, "skipped": report.to_dict(), **more}


def test_skipped_rows_are_counted_by_reason_and_too_many_of_them_are_an_error():
    assert level_of(check_rows("train", facts_with(0)), "100 rows, 1.00 hours; 0 skipped") == "ok"
    assert level_of(check_rows("train", facts_with(5)), "5 skipped (5 too short)") == "ok"
    too_many = {"too_many_skipped": "6.0% of the train rows can't be used"}
    assert level_of(check_rows("train", facts_with(6, **too_many)), "6.0% of the train rows") == "error"
    assert level_of(check_rows("validation", facts_with(0, shared_with_training=3)), "3 of the rows") == "warning"
    assert check_rows("train", stream_facts(["somewhere"])).level == "ok"


def test_transcripts_that_do_not_fit_their_audio_are_a_warning():
    # 3 labels and a blank between the two alike: 4 of 8 frames; 1 label: 1 of 3 frames.
    rows = Dataset.from_dict({"labels": [[3, 4, 4], [3]], "num_samples": [400 + 7 * 320, 400 + 2 * 320]})
    fitting = {"rows": 100, "skipped": {}}
    found = check_transcripts(fitting, rows, SSLWav2Vec2Config())
    assert level_of(found, "0 rows", "2.5 times the frames") == "ok"
    unfitting = {"rows": 97, "skipped": {"with more text than its audio has frames": 2, "without text": 1}}
    found = check_transcripts(unfitting, rows, SSLWav2Vec2Config())
    assert level_of(found, "2 rows", "2.0% do not fit") == "warning"


def masks_of(make_arguments, seconds, config=None, predicts_hidden=True, **settings):
    lengths = None if seconds is None else np.array([int(16_000 * length) for length in seconds])
    config = SSLWav2Vec2Config(**(config or {}))
    return check_masks(config, make_arguments(**settings), lengths, predicts_hidden)


def test_the_share_of_hidden_frames_is_measured_on_the_lengths_of_the_data(make_arguments):
    for seconds in ([4.0] * 50, None):
        found = masks_of(make_arguments, seconds)
        assert found.level == "ok"
        share = float(found.finding.partition("%")[0]) / 100
        assert share == pytest.approx(1 - np.exp(-0.65), abs=0.05)
    # Rows of 12 frames, of which two spans of 10 hide all but one or none of the first and last.
    assert level_of(masks_of(make_arguments, [0.25] * 50, min_seconds=0.25), "short for spans") == "warning"


def test_masks_that_hide_nothing_or_nearly_all_are_an_error(make_arguments):
    nothing = dict(mask_time_prob=0.0, mask_time_min_masks=0)
    assert level_of(masks_of(make_arguments, [3.0], nothing), "Nothing would be hidden") == "error"
    assert level_of(masks_of(make_arguments, [3.0], dict(mask_time_prob=5.0)), "Too little is left") == "error"
    too_short = masks_of(make_arguments, [3.0], min_seconds=0.2)
    assert level_of(too_short, "makes 9 frames, no more than the 10 of one mask span") == "error"
    assert masks_of(make_arguments, [3.0], nothing, predicts_hidden=False).level == "ok"
    assert masks_of(make_arguments, [0.15], predicts_hidden=False, min_seconds=0.1).level == "warning"


# Recipe --------------------------------------------------------------------------------------------------------------


def test_a_warm_up_or_a_frozen_encoder_as_long_as_the_run_is_a_warning(make_arguments):
    arguments = make_arguments(warmup_steps=10)
    assert level_of(check_schedule(arguments, 10), "never reaches its peak") == "warning"
    assert level_of(check_schedule(arguments, 11), "11 updates, 10 of them warm-up") == "ok"
    tuning = make_arguments(SpeechCTCTrainingArguments, freeze_transformer_updates=50, eval_strategy="no",
                            load_best_model_at_end=False)  # fmt: skip
    assert level_of(check_schedule(tuning, 50), "5 of them", "stays frozen") == "warning"
    assert level_of(check_schedule(tuning, 100), "100 updates, 10 of them warm-up") == "ok"
    tuning.tri_stage = [200, 0, 0]
    assert level_of(check_schedule(tuning, 100), "Lower tri_stage") == "warning"


def test_a_schedule_that_does_not_fit_the_run_is_a_warning_with_the_learning_rates(make_arguments):
    arguments = make_arguments(warmup_steps=32_000, learning_rate=5e-4)
    found = check_schedule(arguments, 20)
    assert level_of(found, "its peak of 0.0005: it reaches 3e-07 and ends at 3e-07", "Lower warmup_steps") == "warning"
    decaying = dict(lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs={"num_decay_steps": 1000})
    assert level_of(check_schedule(make_arguments(**decaying), 20), "Correct lr_scheduler_kwargs") == "warning"
    ctc = dict(kind=SpeechCTCTrainingArguments, eval_strategy="no", load_best_model_at_end=False, learning_rate=1e-3)
    stages = make_arguments(**ctc, tri_stage=[8_000, 0, 72_000])
    assert (
        level_of(check_schedule(stages, 25_000), "are 80,000 updates together", "rate of 0.00049 instead") == "warning"
    )
    assert level_of(check_schedule(stages, 90_000), "the other 10,000 keep the lowest learning rate") == "warning"
    assert check_schedule(stages, 80_000).level == "ok"
    assert check_schedule(make_arguments(**ctc), 80_000).level == "ok"


def test_a_run_that_ends_before_its_first_evaluation_is_a_warning(make_arguments):
    often = dict(eval_strategy="steps", eval_steps=1000, save_strategy="steps", save_steps=1000)
    found = check_evaluations(make_arguments(SpeechCTCTrainingArguments, **often), 650)
    assert level_of(found, "the first after 1,000, but the run has 650", "the last model is kept for") == "warning"
    assert check_evaluations(make_arguments(**often), 1000).level == "ok"
    assert check_evaluations(make_arguments(eval_strategy="steps", eval_steps=0.1), 650).level == "ok"
    late = make_arguments(eval_strategy="steps", eval_steps=10, eval_delay=95)
    assert level_of(check_evaluations(late, 99), "the first after 100") == "warning"
    assert check_evaluations(make_arguments(), 1).level == "ok"


@pytest.mark.usefixtures("named_corpora")
@pytest.mark.parametrize("name", ["wav2vec2_base", "wav2vec2_large", "wav2vec2_small", "hubert_base", "hubert_large"])
def test_a_published_recipe_fits_a_twentieth_of_its_updates(name, tmp_path):
    kinds = (SpeechModelArguments, SpeechPreTrainingDataArguments, SpeechPreTrainingArguments)
    full = parse_arguments([name, "--use_cpu", "true"], *kinds)[-1]
    short = parse_arguments([name, "--use_cpu", "true", "--max_steps", str(full.max_steps // 20)], *kinds)[-1]
    for args, part in ((full, 1), (short, 20)):
        assert check_schedule(args, args.max_steps).level == "ok"
        assert args.get_warmup_steps(args.max_steps) == full.get_warmup_steps(full.max_steps) // part


@pytest.mark.usefixtures("named_corpora")
@pytest.mark.parametrize("name", ["ctc_10min", "ctc_1h", "ctc_10h"])
def test_an_encoder_rests_for_10_000_updates_and_in_a_shorter_run_for_the_same_share(name):
    kinds = (SpeechCTCModelArguments, SpeechDataArguments, SpeechTextArguments, SpeechCTCTrainingArguments)
    args = parse_arguments([name, "--use_cpu", "true"], *kinds)[-1]
    assert args.frozen_updates(args.max_steps) == 10_000
    assert args.frozen_updates(args.max_steps // 20) == 500
    assert check_schedule(args, args.max_steps // 20).level == "ok"


def test_updates_far_from_the_size_the_recipe_means_are_a_warning(make_arguments):
    sampler = DurationBatchSampler([16_000] * 16, batch_seconds=4)
    arguments = make_arguments(batch_seconds=4, gradient_accumulation_steps=2, max_steps=10)
    size = run_size(arguments, sampler)
    assert size == (10, 8.0, 5.0)
    assert level_of(check_batches(arguments, size), "8.0 s of audio per update", "5.0 epochs") == "ok"
    assert check_batches(arguments, size, ("paper", 32.0)).level == "ok"
    assert level_of(check_batches(arguments, size, ("paper", 33.0)), "4.1 times as much", "0.0092") == "warning"
    assert level_of(check_batches(arguments, size, ("paper", 1.9)), "4.2 times as little") == "warning"
    arguments.hours_per_update = 0.5
    assert level_of(check_batches(arguments, size), "hours_per_update means 1,800.0 s") == "warning"
    by_epochs = make_arguments(batch_seconds=4, max_steps=-1, num_train_epochs=3)
    assert run_size(by_epochs, sampler) == (12, 4.0, 3.0)


def test_the_size_of_published_updates_is_known_for_models_of_published_width():
    def record(config, **more):
        return {"identity": {"model_type": config.model_type, "config": config.to_dict()}, **more}

    assert published_seconds_per_update(record(SSLWav2Vec2Config.preset("base"))) == ("wav2vec 2.0 BASE", 5600)
    assert published_seconds_per_update(record(SSLHubertConfig.preset("large")))[1] == 7200
    assert published_seconds_per_update(record(SSLWav2Vec2Config.preset("tiny"))) is None
    tuning = record(SSLWav2Vec2Config.preset("base"), task="ctc", data={"train": {"hours": 9}})
    assert published_seconds_per_update(tuning) == ("wav2vec 2.0 BASE fine-tuned on 10 hours", 1600)


# Machine -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_instructions", [True, False])
def test_bf16_auto_takes_bf16_where_the_cpu_has_instructions_for_it(make_arguments, monkeypatch, has_instructions):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_instructions}, raising=False)
    (arguments,) = parse_arguments(["--output_dir", "x", "--use_cpu", "--bf16", "auto"], SpeechPreTrainingArguments)
    assert arguments.bf16 is has_instructions and check_precision(arguments).level == "ok"
    (forced,) = parse_arguments(["--output_dir", "x", "--use_cpu", "--bf16"], SpeechPreTrainingArguments)
    assert forced.bf16 is True
    assert check_precision(forced).level == ("ok" if has_instructions else "warning")
    assert make_arguments(bf16="auto", fp16=False).bf16 is has_instructions
    with pytest.raises(ValueError, match="Truthy value expected"):
        parse_arguments(["--output_dir", "x", "--bf16", "perhaps"], SpeechPreTrainingArguments)


@pytest.mark.parametrize("has_instructions", [True, False])
def test_older_torch_tells_of_bf16_instructions_too(monkeypatch, has_instructions):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_instructions)
    assert cpu_computes_bf16() is has_instructions


def test_a_full_disk_is_an_error_before_the_first_step(make_trainer, monkeypatch, tmp_path):
    trainer = make_trainer(save_strategy="steps")
    assert level_of(check_disk(trainer.model, trainer.args, 2), "3 checkpoints") == "ok"
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    assert level_of(check_disk(trainer.model, trainer.args, 2), "free some space") == "error"
    keeps_all = make_trainer(save_strategy="steps", save_total_limit=None, save_steps=10)
    assert level_of(check_disk(keeps_all.model, keeps_all.args, 95), "10 checkpoints") == "error"


# The dry step --------------------------------------------------------------------------------------------------------


def final_weights(trainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_checkpointing": True}, {"bf16": True}, {"config": {"feat_extract_norm": "layer"}}],
    ids=["float32", "gradient checkpointing", "bf16", "layer norm"],
)
def test_a_run_has_the_same_weights_bit_for_bit_with_and_without_the_dry_step(make_trainer, settings):
    settings = {**settings, "config": UNSTEADY | settings.get("config", {}), "max_steps": 3}
    without, with_it = make_trainer(**settings), make_trainer(**settings)
    expected = final_weights(without)
    torch.manual_seed(0)
    make_trainer(**settings)  # the same draws as before, up to here
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    before = {name: value.clone() for name, value in with_it.model.state_dict().items()}
    assert check_memory(with_it).level == "ok"
    assert states[:2] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(states[2], torch.get_rng_state())
    for name, value in with_it.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(weight.grad is None for weight in with_it.model.parameters())
    assert with_it.statistics == {} and with_it.samples == 0 and with_it.skipped_rows == {}
    for name, value in final_weights(with_it).items():
        assert torch.equal(value, expected[name]), name


def test_buffers_modes_and_counters_come_back_even_after_an_error(tiny_wav2vec2):
    model = tiny_wav2vec2.eval()
    model.config.layerdrop = 0.5
    model.set_update(7)
    temperature, kept = model.quantizer.temperature.clone(), model.base_model.encoder.kept.clone()
    with pytest.raises(RuntimeError), leaving_no_trace(model):
        model.train()
        model.set_update(90_000)
        torch.rand(1), random.random(), np.random.rand()
        raise RuntimeError
    assert not model.training and torch.equal(model.base_model.encoder.kept, kept)
    assert torch.equal(model.quantizer.temperature, temperature)


def test_the_dry_step_takes_the_largest_batch_of_the_data_and_full_ones_of_a_stream(make_trainer, rows):
    assert level_of(check_memory(make_trainer()), "(2 rows of up to 4.0 s)", " GB") == "ok"
    stream = prepare_stream(noise_rows([1.5, 2.0]).to_iterable_dataset(), min_seconds=1)
    assert level_of(check_memory(make_trainer(stream, buffer_seconds=8)), "(2 rows of up to 4.0 s)") == "ok"
    to_come = rows[0].add_column("units", [None] * len(rows[0]))  # its units are still to be made
    assert check_memory(make_trainer(to_come, hubert=True)).level == "ok"


def test_the_largest_batch_has_the_most_samples_with_padding():
    sampler = DurationBatchSampler([112_000, 48_000, 48_000], batch_seconds=8)
    assert sampler.largest_batch() == [0]
    sampler = DurationBatchSampler([80_000, 48_000, 48_000, 16_000], batch_seconds=6)
    assert sorted(sampler.largest_batch()) == [1, 2]


def test_a_step_that_does_not_fit_the_memory_is_an_error_with_the_way_out(make_trainer, monkeypatch):
    trainer = make_trainer()
    trouble = [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: ..."),
    ]
    for error in trouble:
        with monkeypatch.context() as patch:
            patch.setattr(trainer.model, "objective", lambda *_, **__: (_ for _ in ()).throw(error))  # noqa: B023
            assert level_of(check_memory(trainer), "does not fit", "batch_seconds", "gradient_checkpointing") == "error"
    monkeypatch.setattr("hf_ssl_speech.training.dry_step.memory_of", lambda device: 1000)
    assert level_of(check_memory(trainer), "little is left") == "warning"


# The whole -----------------------------------------------------------------------------------------------------------


def tiny_run(make_arguments, rows, units=None, **settings):
    torch.manual_seed(0)
    dataset, report = rows
    split = Split(dataset, split_facts("noise", dataset, report))
    if units:
        model = SSLHubertForPreTraining(SSLHubertConfig(**TINY, num_units=[10], unit_embedding_dim=12))
    else:
        model = SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config(**TINY, **WAV2VEC2))
    return pretrain(model, make_arguments(**settings), split, units=units)


def test_preflight_only_prints_a_table_and_writes_nothing(make_arguments, rows, tmp_path, capsys):
    with tidy_errors():  # so the script ends with exit code 0
        trainer = tiny_run(make_arguments, rows, preflight_only=True)
    assert trainer.state.global_step == 0 and list(tmp_path.iterdir()) == []
    shown = capsys.readouterr().out
    for check in ("train", "output folder", "masks", "schedule", "batches", "precision", "disk", "memory"):
        assert any(line.startswith(check) and line.endswith("  ok") for line in shown.splitlines()), check
    assert max(map(len, shown.splitlines())) <= 120


def test_preflight_only_ends_with_an_exit_code_when_something_is_an_error(make_arguments, rows, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop, tidy_errors():
        tiny_run(make_arguments, rows, preflight_only=True, min_seconds=0.2, warmup_steps=100)
    assert stop.value.code not in (0, None) and "one mask span" in str(stop.value)
    assert list(tmp_path.iterdir()) == []
    levels = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line[:1].strip()]
    assert levels.count("error") == 1 and levels.count("warning") == 1


def test_preflight_only_tells_what_the_output_folder_holds(make_arguments, rows, capsys):
    tiny_run(make_arguments, rows)
    tiny_run(make_arguments, rows, preflight_only=True)
    assert re.search(r"is\s+(ok\s+)?complete", capsys.readouterr().out)  # the table wraps
    with pytest.raises(ValueError, match=r"output folder: .*is of another run"):
        tiny_run(make_arguments, rows, preflight_only=True, learning_rate=1e-4)


def test_a_run_checks_first_and_says_what_is_odd(make_arguments, rows, caplog):
    with pytest.raises(ValueError, match="no more than the 10 of one mask span"):
        tiny_run(make_arguments, rows, min_seconds=0.2)
    tiny_run(make_arguments, rows, warmup_steps=100)
    assert "schedule: 2 updates, 100 of them warm-up" in caplog.text


def test_units_of_another_frame_rate_are_an_error_in_the_table(make_arguments, rows, capsys):
    dataset, report = rows
    wrong = Dataset.from_list([{**row, "units": [1] * 7} for row in dataset])
    with pytest.raises(ValueError, match="has 7 units in 'units', but its audio makes 74 frames"):
        tiny_run(make_arguments, (wrong, report), units=UnitLabels(("units",)), preflight_only=True)
    assert "error" in capsys.readouterr().out


def test_the_table_wraps_long_findings():
    lines = table([Finding("disk", "word " * 40, "warning"), Finding("masks", "fine")]).splitlines()
    assert max(map(len, lines)) <= 120 and len(lines) == 5
    assert lines[2].endswith("warning") and lines[-1].endswith("ok")
