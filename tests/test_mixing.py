"""Several corpora in one training: their shares of an epoch, their copies, their figures."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import tiny_model
from datasets import Dataset, Features, IterableDataset, List, Value, load_from_disk
from test_exactness import largest_difference
from train_tiny import train, train_in_processes

import hf_ssl_speech
from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.data.batching import DurationBatchSampler
from hf_ssl_speech.data.collators import Wav2Vec2PretrainingCollator
from hf_ssl_speech.data.mixing import MixedRows, Mixture, mixed_stream, mixture_of
from hf_ssl_speech.data.mixture_settings import as_settings, split_name
from hf_ssl_speech.hub.card_sections import effort_table
from hf_ssl_speech.recipes.inputs import SpeechDataArguments
from hf_ssl_speech.recipes.splits import load_split
from hf_ssl_speech.records import as_record, read_record
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments
from hf_ssl_speech.units.kmeans_units import _choose

SECOND = 16_000
ROW = Features({"name": Value("string"), "sample_id": Value("int64"), "num_samples": Value("int64"),
                "samples": List(Value("int16")), "corpus": Value("string"), "language": Value("string")})  # fmt: skip


def index_of(hours: dict[tuple[str, str], float], seed: int = 0) -> Dataset:
    """Rows of 2 to 15 seconds, without audio, that make so many hours of each corpus and language."""
    generator, columns = np.random.default_rng(seed), {"num_samples": [], "corpus": [], "language": []}
    for (corpus, language), amount in hours.items():
        lengths = generator.integers(2 * SECOND, 15 * SECOND, int(amount * 3600 / 8.5)).tolist()
        columns["num_samples"] += lengths
        columns["corpus"] += [corpus] * len(lengths)
        columns["language"] += [language] * len(lengths)
    return Dataset.from_dict(columns)


def drawn_hours(rows: Dataset, mixture: Mixture, epochs: range) -> Counter:
    hours: Counter = Counter()
    corpora, lengths = rows["corpus"], rows["num_samples"]
    for epoch in epochs:
        for row in mixture.draw(epoch, seed=1)[0].tolist():
            hours[corpora[row]] += lengths[row] / SECOND / 3600
    return hours


def prepared(seconds: dict[str, list[float]], languages: dict[str, str] | None = None) -> Dataset:
    """Rows of noise as `prepare_speech(cache=True)` gives them, of several corpora."""
    generator, rows = np.random.default_rng(0), []
    for corpus, lengths in seconds.items():
        for length in lengths:
            samples = generator.integers(-3000, 3000, round(length * SECOND)).astype(np.int16)
            rows.append({"name": f"{corpus} {len(rows)}", "sample_id": len(rows), "num_samples": len(samples),
                         "samples": samples, "corpus": corpus, "language": (languages or {}).get(corpus)})  # fmt: skip
    return Dataset.from_list(rows, features=ROW).with_format("numpy", ["samples"], output_all_columns=True, dtype=None)


# The draw --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_each_epoch_has_the_asked_shares_to_a_hundredth_and_the_audio_of_all_corpora(epoch):
    rows = index_of({("big", "en"): 40, ("middle", "de"): 6, ("tiny", "ru"): 0.2})
    mixture = mixture_of(rows, {"big": 2, "middle": 1, "tiny": 1}, {})
    hours = drawn_hours(rows, mixture, range(epoch, epoch + 1))
    whole = sum(rows["num_samples"]) / SECOND / 3600
    assert sum(hours.values()) == pytest.approx(whole, rel=0.001)
    for corpus, share in {"big": 0.5, "middle": 0.25, "tiny": 0.25}.items():
        assert hours[corpus] / sum(hours.values()) == pytest.approx(share, rel=0.01)


def test_no_row_comes_again_before_all_others_of_its_corpus():
    rows = index_of({("big", "en"): 2, ("small", "de"): 0.3})
    mixture = mixture_of(rows, {"big": 1, "small": 1}, {})
    counts = np.zeros(len(rows), int)
    corpora = np.array(rows["corpus"])
    for epoch in range(5):
        drawn, passes = mixture.draw(epoch, seed=3)
        assert len(set(zip(drawn.tolist(), passes.tolist()))) == len(drawn)
        np.add.at(counts, drawn, 1)
        for corpus in ("big", "small"):
            assert np.ptp(counts[corpora == corpus]) <= 1


def test_the_draw_depends_on_seed_and_epoch_alone():
    rows = index_of({("a", "en"): 1, ("b", "de"): 0.5})
    first, second = (mixture_of(rows, {"a": 1, "b": 3}, {}) for _ in range(2))
    second.draw(0, seed=5)
    for one, other in zip(first.draw(4, seed=5), second.draw(4, seed=5)):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first.draw(1, seed=5)[0], first.draw(1, seed=6)[0])


def test_shares_of_two_levels_are_those_of_the_formula():
    """Of a language, its hours to the power 0.7; of a corpus in it, its hours to the power 0.9 (mHuBERT-147)."""
    hours = {("cv", "en"): 20.0, ("mls", "en"): 60.0, ("cv", "ru"): 5.0, ("vox", "ru"): 1.0}
    rows = index_of(hours)
    mixture = mixture_of(rows, {}, {"language": 0.7, "corpus": 0.9})
    n = {name: part["hours"] for name, part in mixture.facts().items()}
    english, russian = n["cv/en"] + n["mls/en"], n["cv/ru"] + n["vox/ru"]
    p_english = english**0.7 / (english**0.7 + russian**0.7)
    p_cv = n["cv/ru"] ** 0.9 / (n["cv/ru"] ** 0.9 + n["vox/ru"] ** 0.9)
    assert mixture.facts()["cv/ru"]["share"] == pytest.approx((1 - p_english) * p_cv, rel=1e-9)
    assert sum(part["share"] for part in mixture.facts().values()) == pytest.approx(1, abs=1e-12)


def test_exponent_one_takes_every_row_once_and_zero_makes_shares_equal():
    rows = index_of({("a", "en"): 3, ("b", "de"): 1})
    natural, equal = (mixture_of(rows, {}, {"corpus": exponent}) for exponent in (1, 0))
    drawn, passes = natural.draw(0, seed=0)
    np.testing.assert_array_equal(drawn, np.arange(len(rows)))
    assert not passes.any()
    assert {part["share"] for part in equal.facts().values()} == {0.5}


def test_crops_count_as_long_as_they_are_heard():
    rows = Dataset.from_dict({"num_samples": [SECOND * 20] * 10 + [SECOND * 5] * 40, "corpus": ["a"] * 10 + ["b"] * 40})
    mixture = mixture_of(rows, {"a": 1, "b": 1}, {}, max_seconds=10)
    drawn, _ = mixture.draw(0, seed=0)
    heard = np.minimum(np.array(rows["num_samples"]), 10 * SECOND)
    assert heard[drawn[drawn < 10]].sum() == heard[drawn[drawn >= 10]].sum()


# Batches ---------------------------------------------------------------------------------------------------------


def test_every_epoch_has_as_many_batches_and_ranks_share_them_out():
    rows = index_of({("a", "en"): 1, ("b", "de"): 0.1})
    mixture = mixture_of(rows, {"a": 1, "b": 1}, {})

    def sampler(**ranks):
        return DurationBatchSampler(
            rows["num_samples"], batch_seconds=60, seed=2, batches_per_update=4, mixture=mixture, **ranks
        )

    alone, halves = sampler(), [sampler(num_replicas=2, rank=rank) for rank in range(2)]
    for epoch in range(3):
        for each in (alone, *halves):
            each.set_epoch(epoch)
        batches, (even, odd) = list(alone), map(list, halves)
        assert len(batches) == len(alone) and len(batches) % 4 == 0
        assert batches == [batch for pair in zip(even, odd) for batch in pair]
        lengths = np.array(rows["num_samples"])
        assert max(len(batch) * lengths[np.array(batch) % len(rows)].max() for batch in batches) <= 60 * SECOND


def test_an_epoch_goes_on_where_it_was_left():
    rows = index_of({("a", "en"): 0.5, ("b", "de"): 0.1})
    mixture = mixture_of(rows, {"a": 1, "b": 1}, {})
    whole, resumed = (
        DurationBatchSampler(rows["num_samples"], batch_seconds=60, seed=2, mixture=mixture) for _ in range(2)
    )
    whole.set_epoch(3)
    resumed.load_state_dict({"epoch": 3, "batches": 5})
    assert list(whole)[5:] == list(resumed)


def test_a_copy_gets_another_mask_and_the_first_pass_the_one_of_a_corpus_alone():
    rows = prepared({"a": [3.0, 4.0]})
    collator = Wav2Vec2PretrainingCollator(tiny_model(hf_ssl_speech.SSLWav2Vec2ForPreTraining).config, normalize=True)
    first, copy = MixedRows(rows).__getitems__([1, 3])
    masks = [collator([row])["mask_time_indices"] for row in (rows[1], first, copy)]
    assert (first["copy"], copy["copy"], first["name"]) == (0, 1, copy["name"])
    assert (masks[0] == masks[1]).all() and not (masks[1] == masks[2]).all()


# Training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed_rows(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("mixed"))
    prepared({"big": [1.2, 1.9, 2.3, 2.4, 3.1], "small": [1.5, 2.0]}).save_to_disk(folder)
    return folder


MIXED = {"weights": ["big=1", "small=2"], "max_steps": 4, "batch_seconds": 4}


def test_a_mixed_run_that_was_interrupted_ends_with_the_very_same_weights_and_hours(mixed_rows, tmp_path):
    saving = MIXED | {"save_strategy": "steps", "save_steps": 3}
    whole = train(mixed_rows, str(tmp_path / "whole"), saving, {})
    resumed = train(mixed_rows, str(tmp_path / "resumed"), saving, {}, str(tmp_path / "whole" / "checkpoint-3"))
    assert largest_difference(tmp_path / "whole", tmp_path / "resumed") == 0.0
    assert whole.tally.hours_of == resumed.tally.hours_of
    assert sum(whole.tally.hours_of.values()) == pytest.approx(whole.tally.hours_seen)


@pytest.mark.slow  # it starts two processes
def test_a_mixed_run_on_two_ranks_has_the_weights_and_the_hours_of_one(mixed_rows, tmp_path):
    train(mixed_rows, str(tmp_path / "one"), MIXED | {"gradient_accumulation_steps": 2}, {})
    train_in_processes(2, mixed_rows, tmp_path / "two", MIXED)
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-10
    one, two = (read_record(tmp_path / name)["data"]["train"]["corpora"] for name in ("one", "two"))
    assert one == two


def test_record_and_card_tell_hours_and_repeats_of_each_corpus(mixed_rows, tmp_path):
    train(mixed_rows, str(tmp_path), {"weights": {"big": 1, "small": 3}, "max_steps": 2}, {})
    record = read_record(tmp_path)
    small = record["data"]["train"]["corpora"]["small"]
    assert (small["rows"], small["share"]) == (2, 0.75)
    assert small["repeats"] == pytest.approx(small["hours_seen"] / (3.5 / 3600))
    assert record["recipe"]["weights"] == ["big=1", "small=3"]
    assert f"| of it small | {small['hours_seen']:.2f} hours, {small['repeats']:.1f} times its 0.00 hours |" in (
        effort_table(as_record(record))
    )


def test_evaluation_tells_the_loss_on_each_corpus_and_all_of_it_is_their_sum(mixed_rows, tmp_path):
    rows = load_from_disk(mixed_rows)
    args = SpeechPreTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, max_steps=1, dataloader_num_workers=0, min_seconds=1, disable_tqdm=True
    )
    trainer = hf_ssl_speech.SpeechPreTrainer(
        tiny_model(hf_ssl_speech.SSLWav2Vec2ForPreTraining), args, eval_dataset=rows
    )
    together = trainer.evaluate()
    for corpus in ("big", "small"):
        alone = trainer.evaluate(rows.filter(lambda each, corpus=corpus: each == corpus, input_columns="corpus"))
        assert together[f"eval_loss_{corpus}"] == pytest.approx(alone["eval_loss"], rel=1e-5)
    assert together["eval_loss_big"] != together["eval_loss_small"]


def test_the_sample_for_k_means_has_the_shares_of_the_mixture():
    rows = index_of({("a", "en"): 30, ("b", "de"): 3})
    rows = rows.add_column("sample_id", list(range(len(rows))))
    mixture = mixture_of(rows, {"a": 1, "b": 1}, {})
    chosen = Counter(_choose(rows, 0.3, 0, mixture.repeats())["corpus"])
    assert chosen["b"] / chosen.total() == pytest.approx(0.5, abs=0.05)  # 4,000 rows: five standard deviations
    assert _choose(rows, 1.0, 0, np.ones(len(rows)))["sample_id"] == rows["sample_id"]


# Streams ---------------------------------------------------------------------------------------------------------


def stream_of(lengths: list[int], shards: int = 1) -> IterableDataset:
    rows = Dataset.from_dict({"num_samples": lengths, "sample_id": list(range(len(lengths)))})
    return rows.to_iterable_dataset(num_shards=shards)


def test_a_mixed_stream_keeps_the_weights_at_any_moment_and_counts_its_passes():
    stream = mixed_stream({"a": stream_of([5] * 60, 3), "b": stream_of([3] * 10, 2)}, {"a": 3, "b": 1})
    given: Counter = Counter()
    for row in stream:
        given[row["corpus"]] += row["num_samples"]
        assert abs(given["a"] / 3 - given["b"]) <= 5
    assert given["a"] == 300
    assert max(row["copy"] for row in stream if row["corpus"] == "b") >= 2
    assert list(stream) == list(stream)


def test_a_stream_without_rows_does_not_stop_the_others():
    stream = mixed_stream({"a": stream_of([5] * 6), "b": stream_of([1, 1]).filter(lambda row: False)}, {"a": 1, "b": 1})
    assert [row["corpus"] for row in stream] == ["a"] * 6


# From sources to rows --------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path) -> Path:
    """Two corpora of two utterances, of which only one tells languages."""
    for corpus in ("english", "many"):
        (tmp_path / corpus).mkdir()
        for number in range(2):
            noise = np.random.default_rng(number).normal(0, 0.1, 3 * SECOND)
            soundfile.write(tmp_path / corpus / f"{number}.wav", noise, SECOND)
    (tmp_path / "many" / "metadata.csv").write_text("file_name,language\n0.wav,ru\n1.wav,de\n")
    return tmp_path


def settings(**given) -> SpeechPreTrainingArguments:
    return SpeechPreTrainingArguments(output_dir="unused", use_cpu=True, max_steps=1, min_seconds=1, **given)


@pytest.mark.parametrize("streaming", [False, True])
def test_named_sources_are_told_apart_by_the_column_corpus(folders, streaming):
    rows = hf_ssl_speech.load_speech(
        [f"en={folders / 'english'}", f"ru={folders / 'many'}[language=ru]"], streaming=streaming
    )
    assert [row["corpus"] for row in rows] == ["en", "en", "ru"]


def test_a_path_with_an_equals_sign_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "language=ru").mkdir()
    assert split_name("language=ru") == (None, "language=ru")
    assert split_name("russian=language=ru") == ("russian", "language=ru")
    assert split_name("https://host/file.parquet?a=b")[0] is None


def test_a_run_reads_mixes_and_streams_named_sources(folders):
    data = SpeechDataArguments(train_data=[f"en={folders / 'english'}", f"others={folders / 'many'}"])
    args = settings(weights={"en": 1, "others": 2})
    assert load_split("train", data, args).rows["corpus"] == ["en", "en", "others", "others"]
    data.streaming = True
    given = Counter(row["corpus"] for row in load_split("train", data, args).rows)
    assert given["others"] > given["en"] > 0


def test_pieces_of_a_recording_keep_their_corpus_and_language(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 50 * SECOND), SECOND)
    (tmp_path / "metadata.csv").write_text("file_name,language\nlong.wav,ru\n")
    rows = hf_ssl_speech.load_speech([f"long={tmp_path}"])
    for cache in (False, True):
        pieces, _ = hf_ssl_speech.prepare_speech(
            rows, min_seconds=1, max_seconds=10, cache=cache, of_recordings=["corpus", "language"]
        )
        assert len(pieces) > 4
        assert set(zip(pieces["corpus"], pieces["language"])) == {("long", "ru")}


def test_yaml_and_command_line_say_the_same(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "train_data:\n  en: LibriSpeech\n  ru: [a, b]\nweights: {en: 3, ru: 1}\nmix_by: {language: 0.5}\n"
    )
    words = ["--train_data", "en=LibriSpeech", "ru=a", "ru=b", "--weights", "en=3", "ru=1", "--mix_by", "language=0.5"]
    for argv in ([str(tmp_path / "run.yaml")], words):
        data, args = parse_arguments(
            [*argv, "--output_dir", "unused", "--use_cpu"], SpeechDataArguments, SpeechPreTrainingArguments
        )
        assert data.train_data == ["en=LibriSpeech", "ru=a", "ru=b"]
        assert (args.weights, args.mix_by, args.levels) == (["en=3", "ru=1"], ["language=0.5"], ["corpus", "language"])


# Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, message",
    [
        (({"a": 0, "b": 0}, {}), "sum to nothing"),
        (({"a": -1}, {}), "a number from 0 up"),
        ((["a"], {}), "NAME=NUMBER"),
        ((["a=1", "a=2"], {}), "twice"),
        ((["a=nan"], {}), "a number from 0 up"),
        (({"a": 1}, {"corpus": 0.5}), "Both weights and mix_by"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        as_settings(*given)


@pytest.mark.parametrize(
    "weights, mix_by, message",
    [
        ({"a": 1, "b": 1, "gone": 1}, {}, "names gone, of which there is no usable row"),
        ({"a": 1}, {}, "says nothing of b"),
        ({}, {"dialect": 0.5}, "the column 'dialect', but the rows have none"),
    ],
)
def test_weights_for_other_corpora_than_there_are_and_unknown_columns_are_refused(weights, mix_by, message):
    rows = index_of({("a", "en"): 0.1, ("b", "de"): 0.1})
    with pytest.raises(ValueError, match=message):
        mixture_of(rows, weights, mix_by)


def test_weights_without_names_a_missing_corpus_and_a_column_that_one_source_lacks_are_refused(folders):
    english, many = str(folders / "english"), str(folders / "many")
    for sources, asked, message in (
        ([english, many], {"weights": {"en": 1}}, "they have no names: write NAME=SOURCE"),
        ([f"en={english}", f"lost={folders / 'lost'}"], {"weights": {"en": 1, "lost": 1}}, "Nothing found at"),
        ([f"en={english}", f"many={many}"], {"mix_by": {"language": 0.5}}, "english' has no column 'language'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_split("train", SpeechDataArguments(train_data=sources), settings(**asked))


def test_an_empty_corpus_is_named(folders):
    (folders / "empty").mkdir()
    data = SpeechDataArguments(train_data=[f"en={folders / 'english'}", f"none={folders / 'empty'}"])
    with pytest.raises(ValueError, match="empty"):
        load_split("train", data, settings(weights={"en": 1, "none": 1}))


def test_a_stream_that_can_not_be_weighed_is_refused_in_a_sentence(folders, tmp_path):
    data = SpeechDataArguments(train_data=[str(folders / "english")], streaming=True)
    with pytest.raises(ValueError, match="has no name to be weighed by"):
        load_split("train", data, settings(weights={"en": 1}))
    with pytest.raises(ValueError, match="those of a stream are unknown"):
        load_split("train", data, settings(mix_by={"language": 0.5}))
    stream = hf_ssl_speech.load_speech(str(folders / "english"), streaming=True)
    with pytest.raises(ValueError, match="mixed_stream"):
        hf_ssl_speech.SpeechPreTrainer(
            tiny_model(hf_ssl_speech.SSLWav2Vec2ForPreTraining), settings(weights={"en": 1}), stream
        )


def test_the_record_is_plain_json(mixed_rows, tmp_path):
    train(mixed_rows, str(tmp_path), {"mix_by": {"corpus": 0.5}, "max_steps": 1}, {})
    assert set(json.loads((tmp_path / "run.json").read_text())["data"]["train"]["corpora"]) == {"big", "small"}
