"""Short forms of the trials that `make torture` runs in full, and that each of them would see a failure."""

import re
import resource
from unittest.mock import patch

import datasets
import pytest
from torture import files, inputs, kills
from torture.damage import damage_checkpoints
from torture.kills import kill_runs
from torture.memory import grow
from torture.processes import apart, fork
from torture.runs import RUNS, finish, make_speech, start

from hf_ssl_speech.data.data_facts import SkipReport
from hf_ssl_speech.training import checkpoints
from hf_ssl_speech.training.trainer import SpeechTrainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torture")
    (folder / "speech").mkdir()
    with patch.object(datasets.config, "HF_DATASETS_CACHE", folder / "datasets"):
        log = folder / "speech.log"
        finish([fork(lambda: make_speech(folder / "speech"), log)], log)
        yield folder


def failures(trials) -> list[str]:
    return [failure for trial in trials for failure in trial.failures]


def test_a_run_that_is_killed_while_it_saves_and_before_its_end_has_the_same_weights(folder):
    moments = ["while saving", 'after the last checkpoint, before "complete"']
    trials = apart({"kills": lambda own: kill_runs(own, "CTC", 1, moments=moments)}, folder)
    assert [trial.tries for trial in trials] == [1, 1] and failures(trials) == []


def test_a_run_whose_weights_differ_after_a_kill_would_be_seen(folder):
    with patch.object(kills, "weights", lambda output: (output / "run.json").read_bytes()):
        found = failures(apart({"differ": lambda own: kill_runs(own, "CTC", 1, moments=["between logs"])}, folder))
    assert any("weights differ" in failure for failure in found)


def damage_the_optimizer(own):
    return damage_checkpoints(own, "wav2vec 2.0", ["a bit flipped"], only="optimizer.pt")


def test_a_damaged_checkpoint_is_passed_over_with_a_word_and_changes_no_weight(folder):
    trials = apart({"damage": damage_the_optimizer}, folder)
    assert [trial.tries for trial in trials] == [1, 1] and failures(trials) == []


def test_a_damaged_checkpoint_that_is_used_would_be_seen(folder):
    with (
        patch.object(checkpoints, "checksum", lambda path: None),
        patch.object(checkpoints, "damage", lambda path: None),
    ):
        found = failures(apart({"used": damage_the_optimizer}, folder))
    assert any("not passed over with a word" in failure for failure in found)


def test_of_many_files_exactly_the_damaged_ones_are_lost_by_name(folder):
    trials = apart({"files": lambda own: files.lose_files(own, 240, share=0.1)}, folder)
    assert len(trials) == 3 and failures(trials) == []


def test_a_file_that_is_lost_without_a_name_would_be_seen(folder):
    with patch.object(SkipReport, "num_skipped", 0), patch.object(files, "reasons_of", lambda report: {}):
        found = failures(apart({"nameless": lambda own: files.lose_files(own, 120, share=0.1)}, folder))
    assert any("is not lost by name" in failure for failure in found)


class Unraisable:
    def __del__(self):
        raise KeyError("nobody can catch this")


@pytest.mark.parametrize(
    ("read", "failure"),
    [
        (lambda folder: {}["name"], "raw KeyError"),
        (lambda folder: int("x"), "neither the file nor the setting is named"),
        # The peak of a process that has used more before, as one that runs all tests, does not rise.
        pytest.param(lambda folder: bytearray(50_000_000), r"0\.05 GB", marks=pytest.mark.slow),
        (lambda folder: [number**2 for number in range(10**6)], r"\d\.\d s, "),
        (lambda folder: Unraisable(), "a traceback was printed"),
    ],
)
def test_a_reader_that_fails_takes_too_much_or_too_long_would_be_seen(read, failure, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "MOST_SECONDS", 0.02)
    monkeypatch.setattr(inputs, "MOST_BYTES", 4e7)
    (tmp_path / "file.json").write_text('{"name": 1}')
    reads = iter([lambda folder: None, read])
    source = inputs.Source(lambda folder: None, lambda folder: next(reads)(folder))
    trial = inputs.torment(tmp_path, "file.json", source, 1)
    assert re.search(failure, trial.failures[0])


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_rank_ends_all_ranks_in_words(folder):
    save = SpeechTrainer._save_checkpoint

    def save_with_little_room(self, *args, **kwargs):
        if self.state.global_step == 6 and self.args.process_index == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))  # the weights take twice that
        save(self, *args, **kwargs)

    output = folder / "full"
    with patch.object(SpeechTrainer, "_save_checkpoint", save_with_little_room):
        children = start(RUNS["wav2vec 2.0, 2 processes"], folder / "speech", output)
    with pytest.raises(RuntimeError, match=r"checkpoint-6 can't be written.*goes on from .*checkpoint-3, which"):
        finish(children, output.with_suffix(".log"))
    finish(start(RUNS["wav2vec 2.0, 2 processes"], folder / "speech", output), output.with_suffix(".log"))


@pytest.mark.slow
def test_memory_does_not_grow(folder):
    assert failures(apart({"memory": lambda own: grow(own, "wav2vec 2.0, 2 workers", 100, 400)}, folder)) == []
