"""A finished run that is asked for more updates goes on as if it had been asked for all at once, or is refused."""

import pytest
import train_tiny
from conftest import TINY, WAV2VEC2
from datasets import load_from_disk
from test_exactness import largest_difference, save_rows  # noqa: F401
from transformers import set_seed

import hf_ssl_speech
from hf_ssl_speech.data.data_facts import SkipReport, split_facts
from hf_ssl_speech.recipes.pretraining import pretrain
from hf_ssl_speech.recipes.splits import Split
from hf_ssl_speech.records import read_record
from hf_ssl_speech.training.outcomes import AlreadyComplete
from hf_ssl_speech.training.schedules import keeps_rates

SETTINGS = {**train_tiny.SETTINGS, "save_strategy": "steps", "save_steps": 3}
SETTINGS |= {"batch_seconds": 1, "max_seconds": 1, "min_seconds": 0.5}
RANDOM = {"layerdrop": 0.3, "hidden_dropout": 0.1}
INVERSE_SQRT = {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 2}


@pytest.fixture
def run(save_rows, tmp_path, monkeypatch):  # noqa: F811
    """`run(name, **settings)`: a run in float64 in the folder of this name, with its record."""
    rows = load_from_disk(save_rows([0.5, 0.5, 0.7, 0.8, 0.9, 1.0]))  # 5 batches an epoch

    def begin(name, **settings):
        set_seed(0)
        config = hf_ssl_speech.SSLWav2Vec2Config(**{**TINY, **WAV2VEC2, **RANDOM})
        model = hf_ssl_speech.SSLWav2Vec2ForPreTraining(config).double()
        args = hf_ssl_speech.SpeechPreTrainingArguments(output_dir=str(tmp_path / name), **{**SETTINGS, **settings})
        return pretrain(model, args, Split(rows, split_facts("tones", rows, SkipReport(len(rows)))))

    return begin


def test_a_finished_run_asked_for_more_updates_ends_as_one_that_was_asked_for_all(run, tmp_path):
    run("whole", max_steps=8, **INVERSE_SQRT)
    run("longer", max_steps=4, **INVERSE_SQRT)
    trainer = run("longer", max_steps=8, **INVERSE_SQRT)
    assert trainer._initial_global_step == 4  # it went on
    assert largest_difference(tmp_path / "whole", tmp_path / "longer") == 0.0
    whole, longer = (read_record(tmp_path / name) for name in ("whole", "longer"))
    assert (longer["status"], longer["updates"], longer["hours_seen"]) == ("complete", 8, whole["hours_seen"])
    with pytest.raises(AlreadyComplete, match="To train longer, raise max_steps"):
        run("longer", max_steps=8, **INVERSE_SQRT)
    with pytest.raises(ValueError, match=r"another run \(recipe.max_steps: 8 there, 4 here\)"):
        run("longer", max_steps=4, **INVERSE_SQRT)


def test_where_the_schedule_would_have_been_another_the_message_names_the_way_out(run):
    run("run", max_steps=3)
    with pytest.raises(ValueError, match=r"linear a run of 6 updates has others in its first 3.*--model_name_or_path"):
        run("run", max_steps=6)


def test_nothing_but_the_length_may_change(run):
    run("run", max_steps=3, **INVERSE_SQRT)
    with pytest.raises(ValueError, match=r"another run \(recipe.weight_decay: 0.01 there, 0.1 here\)"):
        run("run", max_steps=6, weight_decay=0.1, **INVERSE_SQRT)


def test_a_longer_run_leaves_no_newer_checkpoint_of_the_shorter_one_behind(run, tmp_path):
    decay = {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 2}}
    run("run", max_steps=5, **decay)  # the decay begins at update 3
    before = str(tmp_path / "run" / "checkpoint-3")
    with pytest.raises(ValueError, match="a run of 9 updates has others in its first 5"):
        run("run", max_steps=9, **decay)
    with pytest.raises(ValueError, match="continues only from the newest whole checkpoint of its own folder"):
        run("run", max_steps=9, resume_from_checkpoint=before, **decay)
    run("other", max_steps=9, resume_from_checkpoint=before, **decay)
    run("whole", max_steps=9, **decay)
    assert largest_difference(tmp_path / "whole", tmp_path / "other") == 0.0


def test_a_longer_run_without_a_checkpoint_to_go_on_from_is_refused(run):
    run("run", max_steps=2, save_strategy="no", **INVERSE_SQRT)
    with pytest.raises(ValueError, match="continues only from the newest whole checkpoint of its own folder"):
        run("run", max_steps=4, **INVERSE_SQRT)


@pytest.mark.parametrize(
    ("settings", "updates", "kept"),
    [
        ({"lr_scheduler_type": "constant"}, 20, True),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5}, 20, True),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0.1}, 20, False),  # a share of the updates
        ({"lr_scheduler_type": "linear", "warmup_steps": 5}, 4, True),  # while it still warms up
        ({"lr_scheduler_type": "linear", "warmup_steps": 5}, 6, False),
        ({"lr_scheduler_type": "cosine"}, 20, False),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, 1, False),
    ],
)
def test_a_schedule_may_grow_as_long_as_the_rates_already_used_stay(settings, updates, kept, tmp_path):
    settings = {**SETTINGS, "eval_strategy": "epoch", **settings}
    args = hf_ssl_speech.SpeechPreTrainingArguments(output_dir=str(tmp_path), **settings)
    assert keeps_rates(args, (20, 40), updates) == kept


@pytest.mark.parametrize(
    ("stages", "updates", "kept"), [([2, 8, 10], 20, True), ([2, 8, 10], 30, True), ([0.1, 0.4, 0.5], 5, False)]
)
def test_three_stages_in_updates_may_be_followed_by_more_and_shares_may_not(stages, updates, kept, tmp_path):
    settings = dict(output_dir=str(tmp_path), use_cpu=True, tri_stage=stages)
    assert keeps_rates(hf_ssl_speech.SpeechCTCTrainingArguments(**settings), (20, 40), updates) == kept
