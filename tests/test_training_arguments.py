"""What becomes of each setting of transformers' TrainingArguments."""

import dataclasses
from pathlib import Path

import pytest
from transformers import TrainingArguments

from hf_ssl_speech import SpeechCTCTrainingArguments, SpeechPreTrainingArguments
from hf_ssl_speech.training.trainer_settings import (
    ABOVE_ZERO,
    AT_LEAST,
    DECIDED,
    REFUSED,
    WORKS,
    default_of,
    settings_table,
)

PAGE = Path(__file__).parents[1] / "docs" / "training_arguments.md"
# Settings that the oldest transformers allowed, 5.17, does not have.
NEWER = ("activation_checkpointing", "activation_checkpointing_kwargs")
FIELDS = {field.name: default_of(field) for field in dataclasses.fields(TrainingArguments)}


def test_it_is_said_of_every_setting_of_transformers_what_becomes_of_it_once():
    named = [*WORKS, *DECIDED, *REFUSED]
    assert len(named) == len(set(named))
    assert set(FIELDS) - set(named) == set(), "new settings: decide, and add them to training/trainer_settings.py"
    assert set(named) - set(FIELDS) <= set(NEWER), "settings that transformers no longer has"


def test_the_page_shows_the_table():
    newer = {f"| `{name}` |" for name in set(NEWER) - set(FIELDS)}  # the page has them, an older transformers does not
    page = [line for line in PAGE.read_text().splitlines() if not line.startswith(tuple(newer))]
    assert "\n".join(page).endswith(f"\n\n{settings_table()}")


@pytest.mark.parametrize("kind", [SpeechPreTrainingArguments, SpeechCTCTrainingArguments])
def test_a_setting_that_would_not_do_what_it_says_is_refused_by_name(kind, tmp_path):
    kind(output_dir=tmp_path, use_cpu=True)
    for name in REFUSED:
        default = FIELDS[name]
        other = not default if isinstance(default, bool) else default + 1 if isinstance(default, int) else "another"
        if name == "remove_unused_columns":
            other = True  # the default here is False
        if isinstance(default, float):
            other = 0.1
        with pytest.raises(ValueError, match=rf"are not supported by this package: {name}="):
            kind(output_dir=tmp_path, use_cpu=True, **{name: other})


def test_settings_of_accelerates_data_loaders_and_evaluations_that_never_come_are_refused(tmp_path):
    for given in ({"split_batches": True}, '{"split_batches": true}'):
        with pytest.raises(ValueError, match=r"accelerator_config\.split_batches=True"):
            SpeechPreTrainingArguments(output_dir=tmp_path, accelerator_config=given)
    with pytest.raises(ValueError, match="do_eval=True without an eval_strategy"):
        SpeechPreTrainingArguments(output_dir=tmp_path, do_eval=True)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SpeechCTCTrainingArguments, {"tri_stage": [0.5, 0.5, 0.5]}, r"shares of the run that add up to 1\.5"),
        (SpeechCTCTrainingArguments, {"tri_stage": [0.1, 4000, 0.5]}, "all three as shares, or all three in whole"),
        (SpeechCTCTrainingArguments, {"final_share": 0.0}, "above 0, which no exponential decay reaches"),
        (SpeechCTCTrainingArguments, {"initial_share": 5.0}, "initial_share and final_share are 5 and 0.05"),
        (
            SpeechCTCTrainingArguments,
            {"lr_scheduler_type": "linear", "final_share": 0.1},
            "final_share=0.1 would not be used with lr_scheduler_type=linear",
        ),
        (SpeechCTCTrainingArguments, {"lr_scheduler_kwargs": {"num_decay_steps": 3}}, "lr_scheduler_kwargs is"),
        (
            SpeechPreTrainingArguments,
            {"lr_scheduler_type": "warmup_stable_decay"},
            "No schedule can be made of lr_scheduler_type=warmup_stable_decay .*num_decay_steps",
        ),
        (
            SpeechPreTrainingArguments,
            {"lr_scheduler_kwargs": {"power": 2.0}},
            "No schedule can be made of lr_scheduler_type=linear with .*power",
        ),
        (SpeechPreTrainingArguments, {"max_steps": 20, "num_train_epochs": 1}, "both set the length of the run"),
        (SpeechPreTrainingArguments, {"max_steps": 0}, "max_steps is 0"),
        (SpeechPreTrainingArguments, {"optim_args": "amsgrad=True"}, "which the optimizer adamw_.* does not read"),
        (SpeechPreTrainingArguments, {"optim_args": "amsgrad"}, "write it as name=value"),
        (SpeechPreTrainingArguments, {"optim_target_modules": ["q_proj"]}, "only GaLore and APOLLO read it"),
        (SpeechPreTrainingArguments, {"accelerator_config": {"mixed_precision": "bf16"}}, "no such setting"),
        (
            SpeechPreTrainingArguments,
            {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 4}}},
            "set `gradient_accumulation_steps`",
        ),
        (SpeechPreTrainingArguments, {"max_steps": -1, "num_train_epochs": -1}, "num_train_epochs -1"),
        (SpeechPreTrainingArguments, {"save_strategy": "best"}, "save_strategy='best' without an eval_strategy"),
        (
            SpeechPreTrainingArguments,
            {"torch_compile_mode": "fastest"},
            "torch_compile_mode is 'fastest': take one of default, .*max-autotune",
        ),
        (
            SpeechPreTrainingArguments,
            {"torch_compile_backend": "fastest"},
            "torch_compile_backend is 'fastest': take one of .*inductor",
        ),
        (SpeechPreTrainingArguments, {"report_to": "nowhere"}, "nowhere is not supported"),
    ],
)
def test_a_setting_that_cannot_be_meant_or_would_be_passed_over_is_refused(kind, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        kind(output_dir=tmp_path, use_cpu=True, **settings)


def test_a_fine_tuning_without_evaluations_keeps_its_last_model(tmp_path):
    settings = dict(output_dir=tmp_path, early_stopping_patience=3)
    assert SpeechCTCTrainingArguments(**settings).load_best_model_at_end
    args = SpeechCTCTrainingArguments(**settings, eval_strategy="no")
    assert not args.load_best_model_at_end and args.early_stopping_patience is None


def test_epochs_alone_are_the_length_of_the_run(tmp_path):
    def length(**settings):
        args = SpeechPreTrainingArguments(output_dir=tmp_path, use_cpu=True, **settings)
        return args.max_steps, args.num_train_epochs

    assert length(num_train_epochs=1) == (-1, 1)
    assert length(num_train_epochs=3) == (-1, 3)
    assert length(max_steps=-1) == (-1, TrainingArguments.num_train_epochs)
    assert length(max_steps=20) == (20, 0)
    assert length() == (400_000, 0)


@pytest.mark.parametrize(
    ("launched", "asked", "computed"),
    [("bf16", {}, "bf16"), ("no", {"bf16": True}, "bf16"), ("no", {}, "no"), ("bf16", {"bf16": "auto"}, "bf16")],
)
def test_the_precision_of_accelerates_launcher_is_that_of_the_arguments(
    launched, asked, computed, monkeypatch, tmp_path
):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    args = SpeechPreTrainingArguments(output_dir=tmp_path, use_cpu=True, **asked)
    assert args.mixed_precision == computed
    assert (args.bf16, args.fp16) == (computed == "bf16", computed == "fp16")


def test_a_precision_of_accelerates_launcher_that_was_never_tried_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ValueError, match="mixed_precision 'fp8'"):
        SpeechPreTrainingArguments(output_dir=tmp_path, use_cpu=True)


@pytest.mark.parametrize("name", [*AT_LEAST, *ABOVE_ZERO])
def test_a_number_too_small_to_be_meant_is_refused_by_name(name, tmp_path):
    value = AT_LEAST.get(name, 1) - 1
    with pytest.raises(ValueError, match=rf"\b{name} is {value}: give "):
        SpeechCTCTrainingArguments(output_dir=tmp_path, use_cpu=True, **{name: value})


def test_what_is_not_installed_is_refused_before_any_data_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", lambda: ["tensorboard"])
    monkeypatch.setattr("transformers.trainer_optimizer.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match=r"tensorboard, wandb, but wandb can't be used here: .*tensorboard"):
        SpeechPreTrainingArguments(output_dir=tmp_path, use_cpu=True, report_to=["tensorboard", "wandb"])
    with pytest.raises(ImportError, match="bitsandbytes"):
        SpeechPreTrainingArguments(output_dir=tmp_path, use_cpu=True, optim="adamw_bnb_8bit")
