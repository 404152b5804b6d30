"""Speech from every kind of source becomes rows that can be trained on, and what can't is named."""

import io
import logging

import datasets
import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset, DatasetDict, IterableDataset, load_from_disk

from hf_ssl_speech import (
    KMeansUnits,
    SSLWav2Vec2Config,
    TextNormalization,
    add_labels,
    add_units,
    make_processor,
)
from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio, read_audio
from hf_ssl_speech.data import sources
from hf_ssl_speech.data.data_facts import SkipReport
from hf_ssl_speech.data.features import MfccFeatures
from hf_ssl_speech.data.folders import list_audio
from hf_ssl_speech.data.preparing import prepare_speech, prepare_stream, row_waveform
from hf_ssl_speech.data.sources import available_splits, load_speech


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * SAMPLE_RATE))


def encode(waveform: np.ndarray, rate: int = SAMPLE_RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format="FLAC")
    return file.getvalue()


def speech(names: str, **columns: list) -> Dataset:
    """A dataset of half-second utterances, one for each letter."""
    audio = [{"bytes": encode(noise(0.5, ord(name))), "path": f"{name}.flac"} for name in names]
    return Dataset.from_dict({"id": list(names), "audio": audio, **columns})


BAD_AUDIO = {
    "short": encode(noise(0.1)),
    "silent": encode(np.zeros(SAMPLE_RATE)),
    "garbage": b"this is no audio",
    "empty": b"",
    "good": encode(noise(0.5)),
    "slow": encode(noise(0.5), 8_000),
}


@pytest.fixture
def bad_speech() -> Dataset:
    audio = [{"bytes": encoded, "path": None} for encoded in BAD_AUDIO.values()]
    rows = Dataset.from_dict({"id": [*BAD_AUDIO, "missing"], "audio": [*audio, {"bytes": None, "path": "no/such.wav"}]})
    return rows.cast_column("audio", Audio(decode=False))


def test_parquet_files_come_in_order_with_the_columns_they_share(tmp_path, caplog):
    speech("ab", text=["A", "B"], speaker=["x", "y"]).to_parquet(tmp_path / "1.parquet")
    speech("c", text=["C"], language=["en"]).to_parquet(tmp_path / "2.parquet")
    for source in (
        f"{tmp_path}/*.parquet",
        f"{tmp_path}/1.parquet {tmp_path}/2*",
        [f"{tmp_path}/1.parquet", f"{tmp_path}/2.parquet"],
    ):
        for streaming in (False, True):
            rows = list(load_speech(source, streaming=streaming))
            assert [row["id"] for row in rows] == ["a", "b", "c"]
            assert set(rows[0]) == {"id", "audio", "text"}
            assert rows[2]["audio"]["bytes"] == encode(noise(0.5, ord("c")))
    assert "language" in caplog.text and "speaker" in caplog.text


def test_environment_variables_and_spaces_in_a_path_are_understood(tmp_path, monkeypatch):
    (tmp_path / "my speech").mkdir()
    speech("ab").to_parquet(tmp_path / "my speech" / "train.parquet")
    monkeypatch.setenv("SPEECH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_speech("$SPEECH/my speech/train.parquet")) == 2
    assert len(load_speech("~/my speech")) == 2


def test_a_folder_of_parquet_files_has_the_splits_that_its_file_names_tell(tmp_path):
    speech("ab").to_parquet(tmp_path / "train-0.parquet")
    speech("c", text=["C"]).to_parquet(tmp_path / "test-0.parquet")
    assert load_speech(str(tmp_path))["id"][:] == ["a", "b"]
    assert load_speech(str(tmp_path), split="test")["id"][:] == ["c"]
    with pytest.raises(ValueError, match=r"no split 'validation'.*'test', 'train'"):
        load_speech(str(tmp_path), split="validation")


@pytest.mark.parametrize("streaming", [False, True])
def test_what_save_to_disk_wrote_is_read_back(tmp_path, streaming):
    rows = speech("abc").cast_column("audio", Audio(decode=False))
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"train": rows, "test": rows.select([2])}).save_to_disk(tmp_path / "two")
    assert [row["id"] for row in load_speech(str(tmp_path / "one"), streaming=streaming)] == ["a", "b", "c"]
    assert [row["id"] for row in load_speech(str(tmp_path / "two"), split="test", streaming=streaming)] == ["c"]
    with pytest.raises(ValueError, match="no split 'dev'"):
        load_speech(str(tmp_path / "two"), split="dev")


@pytest.mark.parametrize("streaming", [False, True])
def test_audio_files_in_a_folder_are_rows_named_by_their_paths(tmp_path, streaming):
    for name in ("train/x/1", "train/y/2", "test/z/3"):
        (tmp_path / name).parent.mkdir(parents=True)
        soundfile.write(tmp_path / f"{name}.wav", noise(0.5), SAMPLE_RATE)
    (tmp_path / "train" / "notes.txt").write_text("not audio")
    rows = list(load_speech(str(tmp_path), streaming=streaming))
    assert [row["id"] for row in rows] == ["x/1", "y/2"]
    assert len(read_audio(rows[0]["audio"])) == SAMPLE_RATE // 2
    assert [row["id"] for row in load_speech(f"{tmp_path}/**/*.wav", streaming=streaming)] == [
        "test/z/3",
        "train/x/1",
        "train/y/2",
    ]
    with pytest.raises(ValueError, match="no split 'validation'"):
        load_speech(str(tmp_path), split="validation")


@pytest.mark.parametrize("streaming", [False, True])
def test_audio_files_named_one_by_one_are_listed_together_in_their_order(tmp_path, streaming, monkeypatch):
    files = [tmp_path / f"{name}.wav" for name in ("b/1", "a/1", "a/2")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        soundfile.write(file, noise(0.5), SAMPLE_RATE)
    speech("c").to_parquet(tmp_path / "c.parquet")
    listings = []
    monkeypatch.setattr(sources, "list_audio", lambda names: listings.append(names) or list_audio(names))
    rows = load_speech([*files[:2], tmp_path / "c.parquet", files[2]], streaming=streaming)
    assert [row["id"] for row in rows] == ["b/1", "a/1", "c", "2"]
    assert [len(names) for names in listings] == [2, 1]
    named = load_speech([f"one={files[0]}", str(files[1])], streaming=streaming)
    assert [row["corpus"] for row in named] == ["one", str(files[1])]


def test_what_cannot_be_read_in_a_folder_is_counted_and_named(tmp_path):
    soundfile.write(tmp_path / "good.wav", noise(0.5), SAMPLE_RATE)
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "gone.wav")
    for name in ("phone.m4a", "browser.webm"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypM4A " + bytes(1_000))
    prepared, report = prepare_speech(load_speech(str(tmp_path)), min_seconds=0.1)
    assert prepared["name"][:] == ["good"] and report.total == 4
    [way_out] = [reason for reason, names in report.skipped.items() if sorted(names) == ["browser", "phone"]]
    assert "convert it with ffmpeg" in way_out
    assert report.skipped["missing: no such file"] == ["dangling"]


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_files_in_a_folder_with_brackets_in_its_name_are_read(tmp_path, streaming):
    folder = tmp_path / "corpus [v1]"
    folder.mkdir()
    speech("a").to_parquet(folder / "train.parquet")
    speech("b").to_parquet(folder / "test-0.parquet")
    for source, split, name in (
        (folder / "train.parquet", "train", "a"),
        (folder, "train", "a"),
        (folder, "test", "b"),
    ):
        rows = load_speech([str(source)], split=split, streaming=streaming)
        assert [row["id"] for row in rows] == [name]
    assert available_splits([str(folder)]) == ["train", "test"]


@pytest.mark.parametrize("read", [load_speech, available_splits])
def test_a_damaged_folder_of_save_to_disk_is_named(tmp_path, read):
    DatasetDict({"train": speech("a")}).save_to_disk(tmp_path / "saved")
    for content in ("[1]", "{", '{"splits": 7}', "{}"):
        (tmp_path / "saved" / "dataset_dict.json").write_text(content)
        with pytest.raises(ValueError, match="saved does not hold what save_to_disk writes"):
            read(str(tmp_path / "saved"))


def test_a_name_with_newlines_or_nul_is_shown_escaped():
    rows = speech("a")
    bad = Dataset.from_dict({"id": ["a\nforged", "b\0"], "audio": [{"bytes": b"x", "path": None}] * 2})
    _, report = prepare_speech(datasets.concatenate_datasets([rows, bad]), min_seconds=0.1)
    assert "\n" not in str(report) and "\0" not in str(report) and r"'a\nforged'" in str(report)


def test_linked_folders_are_read_once_even_where_a_link_leads_back(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "real").mkdir(parents=True)
    for name in ("there/b.wav", "here/real/a.wav"):
        soundfile.write(tmp_path / name, noise(0.5), SAMPLE_RATE)
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "there")
    (tmp_path / "here" / "real" / "back").symlink_to(tmp_path / "here")
    assert sorted(load_speech(str(tmp_path / "here"))["id"]) == ["linked/b", "real/a"]


@pytest.mark.parametrize("feature", [None, Audio()])
@pytest.mark.parametrize(
    "audio",
    ["a.flac", {"path": "a.flac"}, encode(noise(0.5)), {"bytes": encode(noise(0.5)), "path": None}],
    ids=["path", "path struct", "bytes", "struct"],
)
def test_the_audio_column_may_be_paths_bytes_or_a_struct_under_any_name(tmp_path, monkeypatch, audio, feature):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.flac").write_bytes(encode(noise(0.5)))
    rows = Dataset.from_dict({"sound": [audio], "audio": ["another"], "text": ["A"]})
    if feature:
        rows = rows.cast_column("sound", feature)
    rows.to_parquet(tmp_path / "rows.parquet")
    for streaming in (False, True):
        rows = load_speech(str(tmp_path / "rows.parquet"), audio_column="sound", streaming=streaming)
        row = next(iter(rows.rename_column("text", "transcript")))  # needs no decoder, streamed or not
        assert set(row) == {"audio", "transcript"} and set(row["audio"]) == {"bytes", "path"}
        assert len(read_audio(row["audio"])) == SAMPLE_RATE // 2


def test_another_name_is_asked_of_the_hub_with_its_configuration_and_split(monkeypatch):
    def hub(path, name, *, split, streaming):
        assert (path, name, split, streaming) == ("someone/speech", "clean", "dev", True)
        return IterableDataset.from_generator(lambda: iter(speech("a")))  # says nothing of its columns

    monkeypatch.setattr("hf_ssl_speech.data.sources.load_dataset", hub)
    rows = load_speech("someone/speech", name="clean", split="dev", streaming=True)
    assert next(iter(rows))["audio"]["bytes"] == encode(noise(0.5, ord("a")))


def test_a_source_that_is_not_there_is_named(tmp_path):
    (tmp_path / "hollow").mkdir()
    for source in (tmp_path / "no.parquet", tmp_path / "*.wav", tmp_path / "hollow", tmp_path / "nothing", "./nothing"):
        with pytest.raises(ValueError, match="Nothing found at") as caught:
            load_speech(str(source))
        assert str(source) in str(caught.value)
    with pytest.raises(ValueError, match="No source"):
        load_speech(" ")


def test_a_missing_or_unreadable_audio_column_is_an_error_that_lists_what_there_is(tmp_path):
    Dataset.from_dict({"sound": [1], "text": ["a"]}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"no column 'audio'.*'sound', 'text'"):
        load_speech(str(tmp_path / "rows.parquet"))
    with pytest.raises(ValueError, match=r"holds .*int64.*expected"):
        load_speech(str(tmp_path / "rows.parquet"), audio_column="sound")


def test_named_files_are_one_split_and_of_one_kind(tmp_path):
    speech("a").to_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.flac").write_bytes(encode(noise(0.5)))
    with pytest.raises(ValueError, match=r"no split 'test'.*'train'"):
        load_speech(f"{tmp_path}/a.parquet", split="test")
    with pytest.raises(ValueError, match="Parquet only or audio only"):
        load_speech(f"{tmp_path}/*")


@pytest.mark.parametrize("cache", [False, True])
def test_rows_that_cannot_be_used_are_left_out_and_named(bad_speech, cache):
    rows, report = prepare_speech(bad_speech, min_seconds=0.2, cache=cache)
    # Silence shows only when the audio is decoded.
    usable = {"good": 4, "slow": 5} if cache else {"silent": 1, "good": 4, "slow": 5}
    assert [row["sample_id"] for row in rows] == list(usable.values())
    skipped = {reason.split(":")[0]: names for reason, names in report.skipped.items()}
    assert skipped["too short (under 0.20 s)"] == ["short"]
    assert skipped["unreadable"] == ["garbage"] and skipped["empty"] == ["empty"] and skipped["missing"] == ["missing"]
    assert skipped.get("silent") == (["silent"] if cache else None)
    assert report.total == 7 and report.num_skipped == 7 - len(usable)


@pytest.mark.parametrize("cache", [False, True])
def test_num_samples_is_the_length_of_the_row_at_16_khz(bad_speech, cache):
    rows, _ = prepare_speech(bad_speech.select([4, 5]), min_seconds=0.2, cache=cache)
    # The same samples at 8 kHz last twice as long.
    assert rows["num_samples"][:] == [8_000, 16_000] == [len(row_waveform(row)) for row in rows]


def test_cached_samples_are_arrays_within_half_a_step_of_the_audio(bad_speech):
    rows, _ = prepare_speech(bad_speech, min_seconds=0.2, cache=True)
    one, several = rows[1], rows.__getitems__([0, 1])[1]  # the second is how a DataLoader asks
    for row in (one, several):
        assert isinstance(row["samples"], np.ndarray) and rows.features["samples"].feature.dtype == "int16"
        waveform = row_waveform(row)
        assert waveform.dtype == np.float32
        np.testing.assert_allclose(waveform, read_audio(BAD_AUDIO["slow"]), atol=0.5 / 32_768)


def test_cached_samples_beyond_full_scale_are_clipped_and_do_not_wrap(tmp_path):
    soundfile.write(tmp_path / "loud.wav", [0.0, 1.5, -1.5, 1.0] * SAMPLE_RATE, SAMPLE_RATE, subtype="FLOAT")
    rows, _ = prepare_speech(load_speech(str(tmp_path)), min_seconds=0.2, cache=True)
    np.testing.assert_array_equal(rows[0]["samples"][:4], [0, 32_767, -32_768, 32_767])


def test_a_second_run_finds_the_decoded_audio_again(tmp_path, monkeypatch):
    speech("abc").to_parquet(tmp_path / "rows.parquet")
    first, _ = prepare_speech(load_speech(str(tmp_path)), min_seconds=0.2, cache=True)
    monkeypatch.setattr("hf_ssl_speech.data.preparing.read_blocks", lambda audio: pytest.fail("decoded again"))
    # Another shortest length is no reason to decode again.
    second, report = prepare_speech(load_speech(str(tmp_path)), min_seconds=0.3, cache=True)
    np.testing.assert_array_equal(first[2]["samples"], second[2]["samples"])
    assert first._fingerprint == second._fingerprint and report.num_skipped == 0


@pytest.mark.parametrize("cache", [False, True])
def test_only_the_columns_asked_for_are_kept_beside_the_new_ones(cache):
    rows = speech("ab", text=["A", "B"], units=[[1, 2], [3]]).cast_column("audio", Audio(decode=False))
    rows, _ = prepare_speech(rows, min_seconds=0.2, cache=cache, keep=("text", "units"))
    assert set(rows.column_names) == {
        "name",
        "sample_id",
        "num_samples",
        "samples" if cache else "audio",
        "text",
        "units",
    }
    assert rows[1]["text"] == "B" and rows[1]["units"] == [3]
    with pytest.raises(ValueError, match=r"no columns \['phones'\]"):
        prepare_speech(speech("a"), min_seconds=0.2, keep=("phones",))


LONG = [40_000, 33_000, 70_000, 100_000]


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("change", ["labels", "units", "both", "filter", "map", "column", "flatten", "sort", "save"])
def test_no_transform_changes_the_numbers_beside_the_audio(cache, change, tmp_path):
    """Of rows longer than an int16 can count, after one of them was dropped."""
    columns = {
        "text": ["ab"] * 4,
        "place": [2**40] * 4,
        "time": [0.1] * 4,
        "audio": [encode(noise(n / SAMPLE_RATE)) for n in LONG],
    }
    Dataset.from_dict(columns).to_parquet(tmp_path / "rows.parquet")
    source = load_speech(str(tmp_path / "rows.parquet"))
    rows = prepare_speech(source, min_seconds=0.2, cache=cache, keep=["text", "place", "time"])[0].select([0, 2, 3])

    def label(rows):
        return add_labels(rows, make_processor(["ab"]).tokenizer, TextNormalization(), SSLWav2Vec2Config())[0]

    def unit(rows):
        return add_units(rows, KMeansUnits.fit(rows, MfccFeatures(), 4, progress=False))

    def save(rows):
        rows.save_to_disk(tmp_path / "saved")
        return load_from_disk(tmp_path / "saved")

    changed = {
        "labels": label,
        "units": unit,
        "both": lambda rows: unit(label(rows)),
        "filter": lambda rows: rows.filter(lambda row: row["num_samples"] > 0),
        "map": lambda rows: rows.map(lambda row: {"more": row["num_samples"]}),
        "column": lambda rows: rows.add_column("more", [1] * len(rows)),
        "flatten": lambda rows: rows.flatten_indices(),
        "sort": lambda rows: rows.sort("num_samples").flatten_indices(),
        "save": save,
    }[change](rows)
    assert changed["num_samples"][:] == [40_000, 70_000, 100_000]
    assert changed["place"][:] == [2**40] * 3 and changed["time"][:] == [0.1] * 3
    assert changed["sample_id"][:] == [0, 2, 3]
    for row, length in zip(changed, (40_000, 70_000, 100_000)):
        waveform = row_waveform(row)
        np.testing.assert_allclose(waveform, read_audio(encode(noise(length / SAMPLE_RATE))), atol=0.5 / 32_768)


def test_sample_ids_count_the_given_rows_and_stay_when_rows_are_reordered(bad_speech):
    rows, _ = prepare_speech(bad_speech.select([5, 0, 4]), min_seconds=0.2)
    assert rows["sample_id"][:] == [0, 2]
    assert rows.select([1, 0])["sample_id"][:] == [2, 0]


def test_several_processes_prepare_what_one_does_even_after_torch_used_threads():
    audio = [{"bytes": encode(noise(1, seed), 44_100), "path": None} for seed in range(6)]
    rows = Dataset.from_dict({"audio": audio}).cast_column("audio", Audio(decode=False))
    torch.nn.functional.conv1d(torch.randn(8, 1, 100_000), torch.randn(32, 1, 10))
    one, _ = prepare_speech(rows, min_seconds=0.2, cache=True)
    two, _ = prepare_speech(rows, min_seconds=0.2, cache=True, num_proc=2)
    assert two["sample_id"][:] == one["sample_id"][:] == list(range(6))
    for left, right in zip(one, two):
        np.testing.assert_array_equal(left["samples"], right["samples"])


def test_no_usable_row_at_all_is_an_error_with_the_reasons(bad_speech):
    with pytest.raises(ValueError, match=r"4 of 4 rows skipped.*too short.*short"):
        prepare_speech(bad_speech.select([0, 1, 2, 3]), min_seconds=0.2, cache=True)
    with pytest.raises(ValueError, match="no rows"):
        prepare_speech(bad_speech.select([]), min_seconds=0.2)


def test_the_report_reads_as_a_sentence():
    report = SkipReport(total=2_700)
    assert str(report) == "0 of 2,700 rows skipped"
    for name in "abcdef":
        report.add(name, "too short (under 0.50 s)")
    report.add("z", "unreadable: Format not recognised")
    assert str(report) == (
        "7 of 2,700 rows skipped: 6 too short (under 0.50 s): a, b, c, d and 2 more; "
        "1 unreadable: Format not recognised: z"
    )
    assert report.to_dict()["num_skipped"] == 7
    assert report.to_dict()["skipped"]["unreadable: Format not recognised"] == ["z"]


def test_a_row_found_silent_only_when_decoded_says_so(bad_speech):
    rows, _ = prepare_speech(bad_speech, min_seconds=0.2)
    with pytest.raises(BadAudio, match="silent"):
        row_waveform(rows[0])


def test_a_stream_gives_the_same_samples_as_the_cache_and_names_the_bad_rows_once(bad_speech, caplog):
    stream = prepare_stream(bad_speech.to_iterable_dataset(), min_seconds=0.2, keep=("id",))
    with caplog.at_level(logging.WARNING):
        rows, again = list(stream), list(stream)
    cached, _ = prepare_speech(bad_speech, min_seconds=0.2, cache=True)
    assert [row["id"] for row in rows] == [row["id"] for row in again] == ["good", "slow"]
    for row, other in zip(rows, cached):
        assert row["samples"].dtype == np.int16 and row["num_samples"] == len(row["samples"])
        np.testing.assert_array_equal(row["samples"], other["samples"])
    for name in ("short", "silent", "garbage", "empty", "missing"):
        assert caplog.text.count(f"Skipped {name}:") == 1


def test_streamed_sample_ids_follow_the_row_and_not_its_place():
    rows = speech("abcdefgh").cast_column("audio", Audio(decode=False))
    nameless = rows.remove_columns("id")
    unknown = nameless.map(
        lambda row: {"audio": {"bytes": row["audio"]["bytes"], "path": None}}, features=nameless.features
    )
    for one in (rows, nameless, unknown):
        forth = [row["sample_id"] for row in prepare_stream(one.to_iterable_dataset(), min_seconds=0.2)]
        back = [
            row["sample_id"]
            for row in prepare_stream(one.select(range(7, -1, -1)).to_iterable_dataset(), min_seconds=0.2)
        ]
        assert forth == back[::-1] and len(set(forth)) == 8
        assert min(forth) >= 0 and max(forth) < 2**63  # fit for int64 and as seeds


def test_real_speech_is_prepared_whole(corpora):
    rows = load_speech(f"{corpora}/librispeech-mini/train_10min*.parquet {corpora}/digits/test*.parquet")
    prepared, report = prepare_speech(rows, min_seconds=0.1, keep=("duration", "text"))
    assert len(prepared) == 376 and report.num_skipped == 0
    assert all(abs(row["num_samples"] / SAMPLE_RATE - row["duration"]) < 0.001 for row in prepared)
