"""Runs that go wrong are stopped with cause and way out; healthy ones are left alone."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, WAV2VEC2
from datasets import Dataset
from test_training import SETTINGS, noise_rows
from train_tiny_ctc import CHARACTERS, make_trainer

from hf_ssl_speech import (
    SpeechCTCTrainer,
    SpeechCTCTrainingArguments,
    SpeechPreTrainer,
    SpeechPreTrainingArguments,
    SSLHubertConfig,
    SSLHubertForCTC,
    SSLHubertForPreTraining,
    SSLWav2Vec2Config,
    SSLWav2Vec2ForPreTraining,
    TextNormalization,
    add_labels,
    load_speech,
    make_processor,
    prepare_speech,
)
from hf_ssl_speech.training import health
from hf_ssl_speech.training.ctc_trainer import variety
from hf_ssl_speech.training.health import COLLAPSED_LOGS, SKIPS, HealthCheck
from hf_ssl_speech.training.outcomes import UnhealthyRun


@pytest.fixture
def arguments(tmp_path):
    """Of a pretraining run of 1,000 updates, 100 of them warm-up."""
    return SpeechPreTrainingArguments(output_dir=str(tmp_path), use_cpu=True, warmup_steps=100, max_steps=1000)


@pytest.fixture
def ctc_arguments(tmp_path):
    """Of a fine-tuning run of 1,000 updates, 100 of them warm-up, the encoder frozen for 300."""
    return SpeechCTCTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, max_steps=1000, freeze_transformer_updates=300
    )


def show(check: HealthCheck, arguments, logs, vocab_size: int = 32, every: int = 20):
    """Shows a check the logs of a run, one each so many updates; returns the last update."""
    state = SimpleNamespace(global_step=0, max_steps=1000, log_history=[])
    model = SimpleNamespace(config=SimpleNamespace(vocab_size=vocab_size))
    for log in logs:
        state.global_step += every
        state.log_history.append({**log, "step": state.global_step})
        check.on_log(arguments, state, None, logs=log, model=model)
    return state.global_step


# What is no number, and the codebook ---------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_the_run_in_words(tmp_path):
    model = SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config(**TINY, **WAV2VEC2))
    settings = SETTINGS | {"learning_rate": 1e30, "max_steps": 5}
    rows, _ = prepare_speech(noise_rows([1.5, 2.0]), min_seconds=1, cache=True)
    trainer = SpeechPreTrainer(model, SpeechPreTrainingArguments(output_dir=str(tmp_path), **settings), rows)
    with pytest.raises(UnhealthyRun, match="diverged"):
        trainer.train()


@pytest.mark.parametrize("name", ["eval_loss", "eval_other_loss", "grad_norm"])
def test_an_evaluation_that_is_no_number_stops_the_run_before_it_can_be_the_best(name, arguments):
    with pytest.raises(UnhealthyRun, match=f"{name} is nan"):
        show(HealthCheck(), arguments, [{name: float("nan")}])


def test_a_collapsed_codebook_stops_the_run_after_some_patience(arguments):
    healthy, collapsed = {"hard_perplexity_1": 50.0}, {"hard_perplexity_1": 50.0, "hard_perplexity_2": 1.2}
    patient = [collapsed] * (COLLAPSED_LOGS - 1)
    show(HealthCheck(), arguments, [*patient, healthy, *patient])
    with pytest.raises(UnhealthyRun, match="collapsed"):
        show(HealthCheck(), arguments, [*patient, collapsed])


def test_with_fp16_a_skipped_update_is_no_diverged_run_but_many_in_a_row_are(arguments):
    skipped, taken = {"loss": 2.0, "grad_norm": float("inf")}, {"loss": 2.0, "grad_norm": 1.0}
    with pytest.raises(UnhealthyRun, match="grad_norm is inf"):
        show(HealthCheck(), arguments, [skipped])
    arguments.fp16 = True
    patient = [skipped] * (SKIPS - 1)
    show(HealthCheck(), arguments, [*patient, taken, *patient])
    with pytest.raises(UnhealthyRun, match="grad_norm is inf"):
        show(HealthCheck(), arguments, [*patient, skipped])
    with pytest.raises(UnhealthyRun, match="loss is nan"):
        show(HealthCheck(), arguments, [{"loss": float("nan"), "grad_norm": 1.0}])


# Signs that must last ------------------------------------------------------------------------------------------------

BAD = {
    "one unit is predicted": {"unit_perplexity_1": 9.0, "unit_perplexity_2": 1.1},
    "predicts only blanks": {"loss": 1.0, "blank_share": 0.9995},
    "the same text for all rows": {"eval_variety": 0.0},
    "no predicted transcript of the evaluation changes": {"eval_changed": 0.0, "eval_cer": 0.8},
}
GOOD = {
    "one unit is predicted": {"unit_perplexity_1": 9.0, "unit_perplexity_2": 2.1},
    "predicts only blanks": {"loss": 1.0, "blank_share": 0.99},
    "the same text for all rows": {"eval_variety": 0.1},
    "no predicted transcript of the evaluation changes": {"eval_changed": 0.0, "eval_cer": 0.1},
}


@pytest.mark.parametrize("cause", BAD)
def test_a_sign_that_lasts_a_fifth_of_the_run_after_the_warm_up_stops_it(cause, arguments, caplog):
    check, bad = HealthCheck(), BAD[cause]
    assert show(check, arguments, [bad] * 9) == 180 and not caplog.messages
    show(HealthCheck(), arguments, [bad] * 14)  # up to 280
    assert cause in caplog.text and "the run stops" in caplog.text and len(caplog.messages) == 1
    with pytest.raises(UnhealthyRun, match=f"At update 300, 200 updates after .*{cause}.*start again"):
        show(HealthCheck(), arguments, [bad] * 15)


@pytest.mark.parametrize("cause", BAD)
def test_one_good_log_takes_a_sign_back_and_good_ones_say_nothing(cause, arguments, caplog):
    show(HealthCheck(), arguments, [*[BAD[cause]] * 14, GOOD[cause], *[BAD[cause]] * 9])
    caplog.clear()
    show(HealthCheck(), arguments, [GOOD[cause]] * 50)
    assert not caplog.messages


def test_the_time_in_which_the_encoder_is_frozen_does_not_count(ctc_arguments):
    show(HealthCheck(), ctc_arguments, [BAD["predicts only blanks"]] * 24)
    with pytest.raises(UnhealthyRun, match="At update 500"):
        show(HealthCheck(), ctc_arguments, [BAD["predicts only blanks"]] * 25)


def test_evaluations_that_are_rare_need_three_in_a_row(arguments):
    show(HealthCheck(), arguments, [BAD["the same text for all rows"]] * 2, every=300)
    with pytest.raises(UnhealthyRun, match="At update 900"):
        show(HealthCheck(), arguments, [BAD["the same text for all rows"]] * 3, every=300)


def test_a_loss_on_a_plateau_far_up_is_warned_of_once_and_a_converged_one_is_not(ctc_arguments, caplog):
    def logs(losses):
        return [{"loss": loss, "blank_share": 0.9} for loss in losses]

    show(HealthCheck(), ctc_arguments, logs([2.9] * 50))
    assert len(caplog.messages) == 1 and "The loss stands at 2.90 for each token" in caplog.text
    caplog.clear()
    show(HealthCheck(), ctc_arguments, logs([0.2] * 50))  # far below half of ln(32) = 3.5
    show(HealthCheck(), ctc_arguments, logs(np.linspace(4, 2, 50)))
    show(HealthCheck(), ctc_arguments, logs([2.9] * 24))
    assert not caplog.messages


def test_short_trials_are_not_judged(ctc_arguments):
    ctc_arguments.freeze_transformer_updates = 0
    state = SimpleNamespace(global_step=0, max_steps=60, log_history=[])
    for update in range(1, 61):
        state.global_step = update
        state.log_history.append({**BAD["one unit is predicted"], "step": update})
        HealthCheck().on_log(ctc_arguments, state, None, logs=state.log_history[-1])


def test_variety_is_none_where_all_rows_hear_the_same():
    assert variety([("a", ""), ("b", ""), ("c", "")]) == 0
    assert variety([("a", "a"), ("b", "b"), ("c", "d")]) == 1
    assert variety([("a", "x")]) == 1 and variety([]) == 1


# Whole runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    """Short runs are judged too."""
    monkeypatch.setattr(health, "FEWEST_UPDATES", 4)


def transcribed_noise() -> Dataset:
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list(CHARACTERS), 6)) for _ in range(4)]
    rows = noise_rows([2.0, 2.0, 2.0, 2.0]).add_column("text", texts)
    prepared, _ = prepare_speech(rows, min_seconds=1, cache=True, keep=["text"])
    return add_labels(prepared, make_processor([CHARACTERS]).tokenizer, TextNormalization(), SSLWav2Vec2Config())[0]


@pytest.mark.parametrize(("token", "cause"), [(0, "predicts only blanks"), (4, "the same text for all rows")])
def test_a_recogniser_that_gives_one_answer_to_all_is_stopped_and_its_checkpoints_stay(
    impatient, tmp_path, token, cause
):
    """Its head prefers one token far more than the audio could outweigh, and hardly learns."""
    rows = transcribed_noise()
    settings = dict(max_steps=20, learning_rate=1e-12, eval_strategy="steps", eval_steps=1, save_strategy="steps",
                    save_steps=2)  # fmt: skip
    trainer = make_trainer(str(tmp_path), settings, {}, rows, rows)
    with torch.no_grad():
        trainer.model.lm_head.bias[token] = 1e4
    with pytest.raises(UnhealthyRun, match=f"At update [45].*{cause}.*checkpoint-[24]"):
        trainer.train()
    assert (tmp_path / "checkpoint-2" / "manifest.json").exists()


def test_a_recogniser_of_which_nothing_learns_is_stopped(impatient, tmp_path):
    rows = transcribed_noise()
    settings = dict(max_steps=20, learning_rate=1e-12, eval_strategy="steps", eval_steps=1)
    trainer = make_trainer(str(tmp_path), settings, {}, rows, rows)
    with torch.no_grad():
        trainer.model.lm_head.weight.mul_(100)
    with pytest.raises(UnhealthyRun, match="no predicted transcript of the evaluation changes"):
        trainer.train()


def test_hubert_that_predicts_one_unit_for_all_is_stopped(impatient, tmp_path):
    rows, _ = prepare_speech(noise_rows([2.0, 2.0]), min_seconds=1, cache=True)
    rows = rows.add_column("units", [[3] * 99] * 2)  # broken labels: the same unit everywhere
    model = SSLHubertForPreTraining(SSLHubertConfig(**TINY, num_units=[10], unit_embedding_dim=12))
    settings = SETTINGS | {"learning_rate": 1e-2, "max_steps": 100}
    trainer = SpeechPreTrainer(model, SpeechPreTrainingArguments(output_dir=str(tmp_path), **settings), rows)
    with pytest.raises(UnhealthyRun, match="one unit is predicted for all hidden frames"):
        trainer.train()


def test_a_healthy_recogniser_of_digits_triggers_nothing(impatient, corpora, tmp_path, caplog):
    torch.manual_seed(0)
    normalization, parts = TextNormalization(), []
    for split, count in (("train", 400), ("test", 40)):
        rows = load_speech(f"{corpora}/digits/{split}*.parquet").shuffle(seed=0).select(range(count))
        parts.append(prepare_speech(rows, min_seconds=0.1, cache=True, keep=["text"])[0])
    processor = make_processor([normalization(text) for text in parts[0]["text"]])
    sizes = dict(hidden_size=96, intermediate_size=256, num_hidden_layers=2, conv_dim=[32] * 7,
                 num_conv_pos_embeddings=32, feature_gradient_scale=1.0, mask_time_prob=0.0)  # fmt: skip
    vocabulary = dict(vocab_size=len(processor.tokenizer), pad_token_id=processor.tokenizer.pad_token_id)
    model = SSLHubertForCTC(SSLHubertConfig.preset("tiny", **sizes, **vocabulary))
    train, test = (add_labels(part, processor.tokenizer, normalization, model.config)[0] for part in parts)
    arguments = SpeechCTCTrainingArguments(
        output_dir=str(tmp_path), batch_seconds=6, min_seconds=0.1, max_seconds=2, max_steps=80, learning_rate=2e-3,
        max_grad_norm=1, logging_steps=4, eval_steps=10, save_strategy="no", load_best_model_at_end=False, use_cpu=True,
        disable_tqdm=True, dataloader_num_workers=0, freeze_conv_encoder=False, examples_shown=0,
    )  # fmt: skip
    settings = dict(processing_class=processor, normalization=normalization)
    trainer = SpeechCTCTrainer(model, arguments, train, test, **settings)
    with caplog.at_level(logging.WARNING, "hf_ssl_speech.training.health"):
        trainer.train()
    assert trainer.is_complete and not [each for each in caplog.records if each.name.endswith("health")]
    last = trainer.state.log_history[-2]
    assert last["eval_variety"] > 0 and last["eval_blank_share"] < 0.99
