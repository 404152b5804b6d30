"""Batches by duration keep their budget, waste little, and are the same for any number of processes."""

import itertools
from functools import partial

import numpy as np
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_ssl_speech import SSLWav2Vec2Config
from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data import batch_plan
from hf_ssl_speech.data.batching import DurationBatchedStream, DurationBatchSampler
from hf_ssl_speech.data.collators import cropped_to_frames
from hf_ssl_speech.models.frames import num_frames


def speech_lengths(rows: int, seed: int = 0) -> np.ndarray:
    """Lengths like LibriSpeech's: most near 14 s, a tail of short ones."""
    rng = np.random.default_rng(seed)
    seconds = np.where(rng.random(rows) < 0.6, rng.normal(14, 1.2, rows), rng.uniform(2, 13, rows))
    return (seconds.clip(1.5, 17) * SAMPLE_RATE).astype(int)


LENGTHS = speech_lengths(1_000)


def padded_seconds(batch: list[int], lengths: np.ndarray = LENGTHS) -> float:
    return len(batch) * lengths[batch].max() / SAMPLE_RATE


@pytest.mark.parametrize("batch_seconds", [17, 24, 87.5])
@pytest.mark.parametrize("shuffle", [True, False])
def test_no_batch_holds_more_than_its_seconds_and_no_row_is_left_out(batch_seconds, shuffle):
    sampler = DurationBatchSampler(LENGTHS, batch_seconds=batch_seconds, shuffle=shuffle)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert max(map(padded_seconds, batches)) <= batch_seconds
        assert sorted(row for batch in batches for row in batch) == list(range(1_000))


def test_every_epoch_has_as_many_batches_but_other_ones():
    sampler = DurationBatchSampler(LENGTHS, batch_seconds=40)
    epochs = []
    for epoch in range(20):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert {len(batches) for batches in epochs} == {len(sampler)}
    companies = [{frozenset(batch) for batch in batches} for batches in epochs[:2]]
    assert len(companies[0] & companies[1]) < 0.1 * len(sampler)


@pytest.mark.parametrize("batch_seconds", [24, 40, 87.5])
def test_a_small_set_gets_new_company_too(batch_seconds):
    lengths = speech_lengths(76)
    sampler = DurationBatchSampler(lengths, batch_seconds=batch_seconds)
    companions = {row: set() for row in range(76)}
    for epoch in range(10):
        sampler.set_epoch(epoch)
        for batch in sampler:
            for row in batch:
                companions[row] |= set(batch)
    rows_per_batch = 76 / len(sampler)
    assert np.mean([len(others) for others in companions.values()]) > 1.5 * rows_per_batch


def test_the_order_depends_on_seed_and_epoch_alone():
    def batches(seed, epoch):
        sampler = DurationBatchSampler(LENGTHS, batch_seconds=40, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(1, 2) == batches(1, 2)
    assert batches(1, 2) != batches(1, 3) != batches(2, 3)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_and_accumulation_share_the_same_audio_of_each_update(ranks):
    alone = list(DurationBatchSampler(LENGTHS, batch_seconds=40, batches_per_update=4))
    samplers = [
        DurationBatchSampler(LENGTHS, batch_seconds=40, batches_per_update=4, num_replicas=ranks, rank=rank)
        for rank in range(ranks)
    ]
    assert len({len(sampler) for sampler in samplers}) == 1
    steps = list(zip(*samplers))
    assert [batch for step in steps for batch in step] == alone
    assert len(alone) % 4 == 0


def test_repeated_batches_fill_the_last_update_even_when_it_is_larger_than_the_set():
    sampler = DurationBatchSampler([SAMPLE_RATE] * 3, batch_seconds=1, batches_per_update=8)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 8
    assert batches == (batches[:3] * 3)[:8] and sorted(map(tuple, batches[:3])) == [(0,), (1,), (2,)]


def test_evaluation_sees_every_row_once_on_any_number_of_ranks():
    samplers = [
        DurationBatchSampler(LENGTHS, batch_seconds=40, shuffle=False, num_replicas=3, rank=r) for r in range(3)
    ]
    rows = [row for sampler in samplers for batch in sampler for row in batch]
    assert sorted(rows) == list(range(1_000))
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]
    before = list(samplers[0])
    samplers[0].set_epoch(5)
    assert list(samplers[0]) == before


@pytest.mark.parametrize("ranks_after", [1, 2, 4])
def test_a_run_continues_after_the_last_batch_on_any_number_of_ranks(ranks_after):
    def sampler(ranks, rank):
        return DurationBatchSampler(LENGTHS, batch_seconds=40, num_replicas=ranks, rank=rank, batches_per_update=4)

    whole = sampler(1, 0)
    whole.set_epoch(3)
    batches = list(whole)
    before = sampler(2, 1)
    before.set_epoch(3)
    iterator = iter(before)
    for _ in range(6):
        next(iterator)
    state = before.state_dict()
    after = [sampler(ranks_after, rank) for rank in range(ranks_after)]
    for one in after:
        one.load_state_dict(state)
        one.set_epoch(3)  # as a trainer does on resuming
    assert [batch for step in zip(*after) for batch in step] == batches[12:]
    for one in after:
        assert len(list(one)) == len(one)  # the next time round is whole again


def test_a_loop_that_is_left_and_begun_again_begins_at_the_start():
    sampler = DurationBatchSampler(LENGTHS, batch_seconds=40)
    first = next(iter(sampler))
    assert next(iter(sampler)) == first
    assert sampler.state_dict() == {"epoch": 0, "batches": 1}


def test_cropped_rows_count_as_long_as_they_will_be():
    sampler = DurationBatchSampler([100 * SAMPLE_RATE] * 4, batch_seconds=20, max_seconds=10)
    assert [len(batch) for batch in sampler] == [2, 2]
    with pytest.raises(ValueError, match=r"100\.0 s does not fit into a batch of 20\.0 s.*max_seconds"):
        DurationBatchSampler([100 * SAMPLE_RATE] * 4, batch_seconds=20)


CROP = partial(cropped_to_frames, multiple=16, conv_layers=SSLWav2Vec2Config().conv_layers)


@pytest.mark.parametrize("multiple", [1, 16])
def test_rows_keep_the_samples_of_the_most_frames_that_are_a_multiple(multiple):
    layers = SSLWav2Vec2Config().conv_layers
    lengths = np.arange(300, 30_000, 7)
    kept = cropped_to_frames(lengths, multiple, layers)
    before, after, with_less = (
        num_frames(torch.from_numpy(samples), layers).numpy() for samples in (lengths, kept, kept - 1)
    )
    enough = before >= multiple
    assert (after[enough] == before[enough] // multiple * multiple).all()
    assert (with_less[enough] < after[enough]).all(), "no sample too many"
    assert (kept[~enough] == lengths[~enough]).all() and (kept <= lengths).all()


def test_cropped_to_multiples_of_16_frames_batches_have_one_length_and_few_shapes():
    """Of lengths like LibriSpeech's: 98.6% of the audio is kept, in 90 shapes at most."""
    lengths = speech_lengths(30_000)
    sampler = DurationBatchSampler(lengths, batch_seconds=87.5, max_seconds=15.6, crop=CROP, batches_per_update=8)
    batches = list(sampler)
    assert {row for batch in batches for row in batch} == set(range(len(lengths)))
    shapes = {(len(batch), *set(sampler.lengths[batch].tolist())) for batch in batches}
    assert all(len(shape) == 2 for shape in shapes), "a batch of two lengths"
    sizes = {length: [rows for rows, other in shapes if other == length] for _, length in shapes}
    assert all(max(rows) - min(rows) <= 1 for rows in sizes.values()), "a small batch is left"
    assert len(shapes) <= 90
    assert str(sampler).endswith(f"0.0% padding, {len(shapes)} shapes, {sampler.kept:.1%} of the audio kept")
    assert sampler.kept > 0.98
    assert sampler.lengths.sum() > 0.98 * np.minimum(lengths, 15.6 * SAMPLE_RATE).sum()
    assert sampler.waste == 0
    assert len(batches) < 1.1 * len(DurationBatchSampler(lengths, batch_seconds=87.5, max_seconds=15.6))


def test_a_stream_too_has_batches_of_one_length():
    rows = [{"id": index, "num_samples": int(length)} for index, length in enumerate(LENGTHS[:200])]
    stream = DurationBatchedStream(rows, batch_seconds=40, max_seconds=15, crop=CROP)
    batches = list(itertools.takewhile(lambda batch: batch[0]["epoch"] == 0, stream))
    assert sorted(row["id"] for batch in batches for row in batch) == list(range(200))
    assert all(
        len(set(CROP(np.minimum([row["num_samples"] for row in batch], 15 * SAMPLE_RATE)).tolist())) == 1
        for batch in batches
    )


def test_ranks_that_do_not_fit_and_rows_without_audio_are_refused():
    with pytest.raises(ValueError, match="expected a rank from 0 to 1"):
        DurationBatchSampler(LENGTHS, batch_seconds=40, num_replicas=2, rank=2)
    with pytest.raises(ValueError, match="multiple of the number of ranks"):
        DurationBatchSampler(LENGTHS, batch_seconds=40, num_replicas=2, batches_per_update=3)
    for lengths in ([], [0, 16_000]):
        with pytest.raises(ValueError, match="expected at least one row"):
            DurationBatchSampler(lengths, batch_seconds=40)


def test_waste_is_the_share_of_padding_and_the_summary_says_it():
    sampler = DurationBatchSampler([3 * SAMPLE_RATE, SAMPLE_RATE], batch_seconds=6)
    assert list(map(sorted, sampler)) == [[0, 1]]
    assert sampler.waste == pytest.approx(1 / 3)
    assert str(sampler) == "1 batches of at most 6.0 s (mean 4.0 s, 2.0 rows), 33.3% padding"


@pytest.mark.parametrize("batch_seconds", [24, 40, 87.5])
def test_less_than_two_percent_of_real_speech_batches_is_padding(corpora, batch_seconds):
    files = sorted((corpora / "librispeech-mini").glob("train*.parquet"))
    seconds = np.concatenate([pyarrow.parquet.read_table(file, columns=["duration"])["duration"] for file in files])
    sampler = DurationBatchSampler((seconds * SAMPLE_RATE).astype(int), batch_seconds=batch_seconds, max_seconds=15.6)
    for epoch in range(5):
        sampler.set_epoch(epoch)
        assert sampler.waste < 0.02


def rows_of(lengths: np.ndarray) -> list[dict]:
    return [{"sample_id": index, "num_samples": int(length)} for index, length in enumerate(lengths)]


def of_epochs(batches, number: int) -> list[list[list[int]]]:
    """The batches of the first epochs of a stream, as row ids."""
    epochs = [[] for _ in range(number)]
    for batch in batches:
        epoch = max(row["epoch"] for row in batch)
        if epoch >= number:
            return epochs
        epochs[epoch].append([row["sample_id"] for row in batch])


def test_a_stream_loses_no_row_and_keeps_the_budget():
    stream = DurationBatchedStream(rows_of(LENGTHS), batch_seconds=40, buffer_seconds=400)
    (batches,) = of_epochs(stream, 1)
    assert sorted(row for batch in batches for row in batch) == list(range(1_000))
    assert max(map(padded_seconds, batches)) <= 40


def test_a_stream_holds_no_more_than_its_buffer():
    taken = []

    def rows():
        for row in rows_of(np.full(100, SAMPLE_RATE)):
            taken.append(row)
            yield row

    next(iter(DurationBatchedStream(rows(), batch_seconds=4, buffer_seconds=20)))
    assert len(taken) == 20


def test_a_stream_starts_over_in_another_order_and_tells_its_dataset():
    dataset = Dataset.from_list(rows_of(LENGTHS)).to_iterable_dataset(num_shards=4)
    first, second = of_epochs(DurationBatchedStream(dataset, batch_seconds=40), 2)
    assert [first, second] == of_epochs(DurationBatchedStream(dataset, batch_seconds=40), 2)
    assert first != second
    assert sorted(row for batch in second for row in batch) == list(range(1_000))
    assert dataset.epoch == 2


def test_workers_share_a_stream():
    dataset = Dataset.from_list(rows_of(LENGTHS)).to_iterable_dataset(num_shards=4)
    loader = DataLoader(
        DurationBatchedStream(dataset, batch_seconds=40), batch_size=None, num_workers=2, collate_fn=list
    )
    seen = [row["sample_id"] for batch in itertools.islice(loader, 40) for row in batch if row["epoch"] == 0]
    assert len(seen) == len(set(seen)) > 100


def test_a_stream_that_cannot_work_says_why():
    with pytest.raises(ValueError, match="Raise `buffer_seconds`"):
        DurationBatchedStream([], batch_seconds=40, buffer_seconds=30)
    with pytest.raises(ValueError, match="crop rows with `max_seconds`"):
        next(iter(DurationBatchedStream(rows_of(LENGTHS), batch_seconds=10)))
    with pytest.raises(ValueError, match="no usable row"):
        next(iter(DurationBatchedStream([], batch_seconds=10)))


def naive_batches(lengths: np.ndarray, batch_samples: int, width: float, rng: np.random.Generator) -> list[list[int]]:
    """Row by row what the sampler does for all rows at once: buckets, batches, and rows drawn within the buckets."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    ceilings, batches, place = [], [], 0
    for row in order:
        is_new = not ceilings or lengths[row] < ceilings[-1] / (1 + width)
        ceilings.append(lengths[row] if is_new else ceilings[-1])
    drawn = rng.random(len(order))
    shuffled = sorted(range(len(order)), key=lambda place: (-ceilings[place], drawn[place]))
    while place < len(order):
        rows = batch_samples // ceilings[place]
        batches.append([order[number] for number in shuffled[place : place + rows]])
        place += rows
    return [batches[number] for number in rng.permutation(len(batches))]


@pytest.mark.parametrize("seed", range(3))
def test_the_batches_are_those_that_a_loop_over_rows_makes(seed, monkeypatch):
    monkeypatch.setattr(batch_plan, "PADDING_FOR_VARIETY", 1.0)  # the first width is taken
    lengths = np.random.default_rng(seed).integers(1_000, 20_000, 400)
    sampler = DurationBatchSampler(lengths, batch_seconds=5, seed=seed)
    sampler.set_epoch(2)
    rng = np.random.default_rng((seed, 2))
    assert list(sampler) == naive_batches(lengths, 80_000, batch_plan.BUCKET_WIDTHS[0], rng)


@pytest.mark.parametrize("values", [np.array([3, 1, 3, 1, 2]), np.array([0.5, 0.1, 0.5, 0.1])])
def test_equal_values_keep_their_order(values):
    assert batch_plan.ordered(values).tolist() == np.argsort(values, kind="stable").tolist()
