"""Rows of a stream that can't be used reach the run's record, by name and reason, and change nothing else."""

import numpy as np
import pytest
import torch
import train_tiny
from conftest import TINY, WAV2VEC2
from datasets import Dataset, IterableDataset
from test_exactness import largest_difference
from test_launch import audio_folder, finish, launch  # noqa: F401
from train_tiny import free_port

import hf_ssl_speech
from hf_ssl_speech import KMeansUnits, add_units
from hf_ssl_speech.data.batching import DurationBatchedStream
from hf_ssl_speech.data.data_facts import stream_facts
from hf_ssl_speech.data.features import MfccFeatures
from hf_ssl_speech.data.preparing import prepare_speech, prepare_stream
from hf_ssl_speech.data.rows import StreamedRows
from hf_ssl_speech.recipes.pretraining import pretrain
from hf_ssl_speech.recipes.splits import Split
from hf_ssl_speech.records import read_record

SETTINGS = {**train_tiny.SETTINGS, "batch_seconds": 2, "max_seconds": 1, "min_seconds": 0.5, "buffer_seconds": 3}
LOST = {
    "silent": "silent: all samples are equal",
    "short": "too short (under 0.50 s)",
    "none": "missing: neither bytes nor a path",
}


def mixed_rows() -> Dataset:
    """Noise of different lengths, and at three places a row that can't be used."""
    generator = np.random.default_rng(0)
    rows = [{"id": f"noise-{n}", "samples": generator.normal(size=9_000 + 800 * n) / 8} for n in range(8)]
    for place, (name, samples) in {
        0: ("silent", np.zeros(16_000)),
        4: ("short", generator.normal(size=3_000) / 8),
        10: ("none", None),
    }.items():
        rows.insert(place, {"id": name, "samples": samples})
    return Dataset.from_list(
        [
            {
                "id": row["id"],
                "audio": None if row["samples"] is None else {"array": row["samples"], "sampling_rate": 16_000},
            }
            for row in rows
        ]
    )


def mixed_stream(mark_unusable: bool = True) -> IterableDataset:
    return prepare_stream(mixed_rows().to_iterable_dataset(num_shards=2), min_seconds=0.5, mark_unusable=mark_unusable)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(name, stream, **settings)`: a run on a stream, with its record, in float64."""

    def begin(name, stream, **settings):
        torch.manual_seed(0)
        config = hf_ssl_speech.SSLWav2Vec2Config(**TINY, **WAV2VEC2)
        model = hf_ssl_speech.SSLWav2Vec2ForPreTraining(config).double()
        args = hf_ssl_speech.SpeechPreTrainingArguments(output_dir=str(tmp_path / name), **{**SETTINGS, **settings})
        return pretrain(model, args, Split(stream, stream_facts(["noise"])))

    return begin


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_lost_while_streaming_reach_the_record_and_change_no_batch(workers, run, tmp_path):
    settings = {"dataloader_num_workers": workers, "max_steps": 10}  # all of the stream, more than once
    run("marked", mixed_stream(), **settings)
    run("left out", mixed_stream(mark_unusable=False), **settings)
    assert read_record(tmp_path / "marked")["skipped_while_training"] == LOST
    assert largest_difference(tmp_path / "marked", tmp_path / "left out") == 0.0


def test_a_run_that_goes_on_knows_what_was_lost_before(run, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 10, "lr_scheduler_type": "constant"}
    run("run", mixed_stream(), max_steps=10, **settings)
    run("run", mixed_stream(), max_steps=11, **settings)
    assert read_record(tmp_path / "run")["skipped_while_training"] == LOST


def test_marked_rows_keep_their_mark_when_they_are_labelled(tmp_path):
    source = MfccFeatures()
    usable, _ = prepare_speech(mixed_rows(), min_seconds=0.5, cache=True)
    units = KMeansUnits.fit(usable, source, 4, seed=0, share=1.0, restarts=1)
    rows = list(add_units(mixed_stream(), units, source=source))
    assert {row["name"] for row in rows if row["problem"]} == LOST.keys()
    labels = {row["name"]: row["units"].tolist() for row in rows if not row["problem"]}
    stream = add_units(mixed_stream(mark_unusable=False), units, source=source)
    assert labels == {row["name"]: row["units"].tolist() for row in stream}


def test_what_is_lost_after_the_last_buffer_is_told_at_the_start_of_the_next_round():
    rows = [
        {"name": "good", "num_samples": 16_000, "problem": None},
        {"name": "bad", "num_samples": 0, "problem": "no audio"},
    ]
    batches = iter(DurationBatchedStream(rows, batch_seconds=1, buffer_seconds=1))
    told = [next(batches)[0].get("skipped_before", []) for _ in range(3)]
    assert told == [[], [("bad", "no audio")], [("bad", "no audio")]]


def test_a_stream_ends_once_more_of_it_is_lost_than_the_limit_and_chance_allow():
    def read(lost: int, of: int, share: float | None, reason: str = "no audio"):
        streamed = StreamedRows(share)
        for place in range(of):
            streamed.count("row", reason if place * lost // of != (place + 1) * lost // of else None)

    read(5, 100, 0.05)
    read(11, 100, 0.05)  # 5 and three standard deviations of 2.2
    read(99, 100, None)
    read(99, 99, 0.05)  # too few to tell
    with pytest.raises(ValueError, match=r"12\.0% of the first 100 rows.*max_skipped_share=5\.0% allows: 12 no audio"):
        read(12, 100, 0.05)
    read(65, 100, 0.05, "too short (under 2 s)")  # half and three standard deviations of 5
    for lost, share in ((66, 0.05), (1, 0.0)):
        with pytest.raises(ValueError, match="of the first 100 rows"):
            read(lost, 100, share, "too short (under 2 s)")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_on_a_stream_stops_when_too_much_of_it_can_not_be_used(workers, run, tmp_path):
    stream = mixed_rows().to_iterable_dataset(num_shards=2)
    stream = prepare_stream(stream, min_seconds=0.5, mark_unusable=True, max_skipped_share=0.05)  # 3 of 11 are lost
    with pytest.raises(ValueError, match=r"rows of the stream can't be used.*raise max_skipped_share"):
        run("run", stream, dataloader_num_workers=workers, max_steps=1000)
    assert read_record(tmp_path / "run")["status"] == "failed"


@pytest.mark.slow
def test_rows_lost_in_two_processes_with_two_workers_each_reach_one_record(audio_folder, tmp_path):  # noqa: F811
    launcher = ("--multi_gpu", "--num_processes", "2", "--main_process_port", str(free_port()))
    more = ["--streaming", "true", "--dataloader_num_workers", "2", "--buffer_seconds", "8"]
    finish(launch(*launcher, folder=audio_folder, output=tmp_path / "run", steps=6, arguments=more))
    (name,) = read_record(tmp_path / "run")["skipped_while_training"]
    assert "broken" in name
