"""Long recordings become pieces that are cut in pauses and together are the whole, however they are read."""

import io
import logging
import tracemalloc

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Dataset

from hf_ssl_speech import KMeansUnits, add_units, prepare_speech
from hf_ssl_speech.audio import SAMPLE_RATE, read_audio, read_blocks
from hf_ssl_speech.data.features import MfccFeatures
from hf_ssl_speech.data.pieces import cut_at_pauses
from hf_ssl_speech.data.preparing import prepare_stream, row_waveform
from hf_ssl_speech.data.sources import load_speech
from hf_ssl_speech.recipes.inputs import SpeechDataArguments
from hf_ssl_speech.recipes.splits import load_split
from hf_ssl_speech.training.arguments import SpeechTrainingArguments

LONGEST = 2  # seconds
EVERY, PAUSE = 0.9, 0.15  # a pause every 0.9 s


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def talk(seconds: float, rate: int = SAMPLE_RATE, seed: int = 0) -> np.ndarray:
    """Noise as 16-bit samples hold it exactly, with a nearly silent pause at the end of every 0.9 s."""
    noise = np.random.default_rng(seed).integers(-8_000, 8_000, int(seconds * rate)) / 32_768
    noise[np.arange(len(noise)) / rate % EVERY >= EVERY - PAUSE] /= 1_000
    return np.round(noise * 32_768) / 32_768


def write(path, waveform, rate=SAMPLE_RATE, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, **settings)


@pytest.fixture
def folder(tmp_path):
    """An utterance, longer than two pieces, and two recordings."""
    write(tmp_path / "speech" / "a-short.wav", talk(12, seed=1))
    write(tmp_path / "speech" / "b-long.wav", talk(60.3, seed=2))
    write(tmp_path / "speech" / "c-long.flac", talk(41, seed=3))
    return tmp_path / "speech"


def encoded_rows(folder) -> Dataset:
    """The same as a dataset that holds the files' bytes, as Parquet files do."""
    files = sorted(folder.iterdir())
    audio = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    return Dataset.from_dict({"id": [file.stem for file in files], "audio": audio})


def by_recording(rows) -> dict[str, np.ndarray]:
    whole: dict[str, list] = {}
    for row in rows:
        waveform = row_waveform(row)
        assert len(waveform) == row["num_samples"]
        whole.setdefault(row["name"].split(" at ")[0], []).append(waveform)
    return {name: np.concatenate(parts) for name, parts in whole.items()}


@pytest.mark.parametrize("block", [997, 50_000, 10**6])
def test_cuts_lie_in_pauses_and_no_sample_is_lost(block):
    waveform = talk(60).astype(np.float32)
    longest = LONGEST * SAMPLE_RATE
    blocks = [waveform[start : start + block] for start in range(0, len(waveform), block)]
    pieces = list(cut_at_pauses(blocks, longest))
    np.testing.assert_array_equal(np.concatenate(pieces), waveform)
    lengths = [len(piece) for piece in pieces]
    assert max(lengths) <= longest and min(lengths) >= longest * 5 // 12
    # The last third of a second does not always hold a pause. Where it does, the cut is in the middle of one.
    cuts, start = np.cumsum(lengths)[:-1] / SAMPLE_RATE, np.cumsum([0, *lengths])[:-2] / SAMPLE_RATE
    first_searched = start[:-1] + LONGEST * 5 / 6  # of all cuts but the last, which halves what is left
    quiet = np.ceil((first_searched + PAUSE) / EVERY) * EVERY - PAUSE / 2  # the next whole pause
    has_pause = quiet + PAUSE / 2 <= start[:-1] + LONGEST
    assert has_pause.sum() >= 5
    np.testing.assert_allclose(cuts[:-1][has_pause], quiet[has_pause], atol=0.04)


def test_without_a_pause_the_quietest_place_is_taken():
    waveform = np.random.default_rng(0).normal(0, 0.1, 100_000).astype(np.float32)
    waveform[28_000:30_000] *= 0.5
    pieces = list(cut_at_pauses([waveform], 32_000))
    assert 28_000 < len(pieces[0]) < 30_000 and sum(map(len, pieces)) == 100_000
    assert [len(piece) for piece in cut_at_pauses([waveform[:32_000]], 32_000)] == [32_000]


@pytest.mark.parametrize("kind", ["files", "files, cached", "bytes", "bytes, cached", "streamed"])
def test_the_pieces_of_a_recording_are_the_whole_in_order(folder, kind):
    source = load_speech(str(folder), streaming=kind == "streamed") if "bytes" not in kind else encoded_rows(folder)
    if kind == "streamed":
        rows = list(prepare_stream(source, min_seconds=0.1, max_seconds=LONGEST))
    else:
        rows, report = prepare_speech(source, min_seconds=0.1, max_seconds=LONGEST, cache="cached" in kind)
        assert report.cut == {"recordings": 2, "pieces": len(rows) - 1, "share_used": 1.0}
        assert any("start" in row and row["start"] for row in rows) == (kind == "files")
    names = [row["name"] for row in rows]
    assert names[:2] == ["a-short", "b-long at 0.00 s"] and "c-long at 0.00 s" in names
    assert max(row["num_samples"] for row in rows if row["name"] != "a-short") <= LONGEST * SAMPLE_RATE
    assert rows[0]["num_samples"] == 12 * SAMPLE_RATE  # an utterance, though longer than a piece
    assert len({row["sample_id"] for row in rows}) == len(rows) >= 1 + 31 + 21
    whole = by_recording(rows)
    for file in folder.iterdir():
        np.testing.assert_array_equal(whole[file.stem], read_audio(file))


def test_a_stream_the_cache_and_the_files_give_the_same_pieces_in_every_run(folder):
    prepared = [
        prepare_speech(load_speech(str(folder)), min_seconds=0.1, max_seconds=LONGEST, cache=cache)[0]
        for cache in (False, True, False)
    ]
    streams = [
        list(prepare_stream(load_speech(str(folder), streaming=True), min_seconds=0.1, max_seconds=LONGEST))
        for _ in range(2)
    ]
    for rows in (*prepared, *streams):
        for row, first in zip(rows, prepared[0]):
            assert (row["name"], row["num_samples"]) == (first["name"], first["num_samples"])
            np.testing.assert_array_equal(row_waveform(row), row_waveform(first))
    ids = [[row["sample_id"] for row in rows] for rows in (*prepared, *streams)]
    assert ids[0] == ids[1] == ids[2] and ids[3] == ids[4] and len(ids[0]) == len(ids[3])


HALF_A_STEP = 0.5 / 32_768  # of 16-bit samples


@pytest.mark.parametrize(
    ("format", "subtype", "rate", "tolerance"),
    [
        ("FLAC", None, 44_100, HALF_A_STEP),
        ("WAV", None, 8_000, HALF_A_STEP),
        ("WAV", None, 16_001, 1e-4),
        ("MP3", None, 22_050, HALF_A_STEP),
        ("MP3", None, 16_000, HALF_A_STEP),
        ("OGG", "VORBIS", 16_000, HALF_A_STEP),
        ("OGG", "OPUS", 24_000, HALF_A_STEP),
    ],
)
def test_a_piece_read_from_the_middle_is_what_the_whole_has_there(tmp_path, format, subtype, rate, tolerance):
    path = tmp_path / f"talk.{format.lower()}"
    write(path, talk(41, rate), rate, format=format, subtype=subtype)
    whole = read_audio(path)
    rows, _ = prepare_speech(load_speech(str(path)), min_seconds=0.1, max_seconds=LONGEST)
    assert None not in rows["start"][:] and len(rows) >= 21
    np.testing.assert_allclose(by_recording(rows)["talk"], whole, rtol=0, atol=tolerance)


def test_half_an_hour_is_cut_and_a_piece_of_it_read_in_the_memory_of_seconds(tmp_path):
    write(tmp_path / "long.flac", np.tile(talk(60).astype(np.float32), 30))
    row = {"audio": {"bytes": None, "path": str(tmp_path / "long.flac")}, "start": 1_000 * SAMPLE_RATE}
    tracemalloc.start()
    lengths = [len(piece) for piece in cut_at_pauses(read_blocks(tmp_path / "long.flac"), 16 * SAMPLE_RATE)]
    cutting = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    assert len(row_waveform(row | {"num_samples": lengths[0]})) == lengths[0]
    reading = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(lengths) == 1800 * SAMPLE_RATE
    assert cutting < 2**25 and reading < 2**23  # the whole would take 2**26.8 bytes as float32


def test_silent_and_short_pieces_are_named_and_the_share_that_is_used_is_told(tmp_path):
    waveform = np.concatenate([talk(20), np.zeros(12 * SAMPLE_RATE), talk(20, seed=1)])
    write(tmp_path / "talk.wav", waveform)
    for cache in (False, True):
        rows, report = prepare_speech(load_speech(str(tmp_path)), min_seconds=0.1, max_seconds=LONGEST, cache=cache)
        [(reason, names)] = report.skipped.items()
        assert reason.startswith("silent") and len(names) >= 2 and all("talk at" in name for name in names)
        assert report.total == len(rows) + len(names) == report.cut["pieces"]
        assert report.cut["share_used"] == sum(rows["num_samples"]) / len(waveform) and report.cut["share_used"] < 0.85
        assert f"{report.cut['share_used']:.1%} of their audio is used" in str(report)


def test_a_damaged_recording_is_lost_as_a_whole_and_named_once(tmp_path):
    write(tmp_path / "good.flac", talk(3))
    write(tmp_path / "long.flac", talk(60))
    encoded = (tmp_path / "long.flac").read_bytes()
    (tmp_path / "long.flac").write_bytes(encoded[: len(encoded) // 2])
    for cache in (False, True):
        rows, report = prepare_speech(load_speech(str(tmp_path)), min_seconds=0.1, max_seconds=LONGEST, cache=cache)
        assert rows["name"][:] == ["good"] and report.cut is None
        assert [names for names in report.skipped.values()] == [["long"]]


def test_units_of_pieces_are_made_from_the_pieces(folder):
    rows, _ = prepare_speech(load_speech(str(folder)), min_seconds=0.1, max_seconds=LONGEST)
    source = MfccFeatures()
    units = KMeansUnits.fit(rows, source, 4, progress=False)
    labelled = add_units(rows, units, source=source)
    stream = prepare_stream(load_speech(str(folder), streaming=True), min_seconds=0.1, max_seconds=LONGEST)
    for row, streamed in zip(labelled, add_units(stream, units, source=source)):
        np.testing.assert_array_equal(row["units"], streamed["units"])
        assert len(row["units"]) == source.description.num_frames(row["num_samples"])


def test_rows_whose_columns_are_kept_are_not_cut(folder):
    rows = encoded_rows(folder).add_column("text", ["a"] * 3)
    for prepare in (prepare_speech, lambda rows, **settings: prepare_stream(rows.to_iterable_dataset(), **settings)):
        with pytest.raises(ValueError, match=r"\['text'\] tell of whole rows"):
            prepare(rows, min_seconds=0.1, max_seconds=LONGEST, keep=["text"])


def test_a_run_cuts_training_and_validation_audio_and_its_facts_say_so(folder, tmp_path, caplog):
    rows = encoded_rows(folder).add_column("text", ["a"] * 3)
    rows.to_parquet(tmp_path / "rows.parquet")
    args = SpeechTrainingArguments(str(tmp_path / "run"), use_cpu=True, min_seconds=0.1, max_seconds=LONGEST)
    data_args = SpeechDataArguments([str(folder)], [str(tmp_path / "rows.parquet")])
    with caplog.at_level(logging.INFO):
        train = load_split("train", data_args, args)
        validation = load_split("validation", data_args, args)
    for split in (train, validation):
        assert split.facts["cut"]["recordings"] == 2 and split.facts["cut"]["share_used"] == 1.0
        assert split.facts["rows"] == split.facts["cut"]["pieces"] + 1
    assert "2 long recordings were cut into" in caplog.text
    transcribed = load_split("validation", data_args, args, need=["text"])
    assert "cut" not in transcribed.facts and transcribed.rows["name"][:] == ["a-short", "b-long", "c-long"]


def test_pieces_of_a_training_recording_are_found_among_validation_pieces(folder, tmp_path):
    args = SpeechTrainingArguments(str(tmp_path / "run"), use_cpu=True, min_seconds=0.1, max_seconds=LONGEST)
    write(tmp_path / "other" / "d-long.wav", talk(45, seed=9))
    write(tmp_path / "other" / "c-long.flac", talk(41, seed=3))
    data_args = SpeechDataArguments([str(folder)], [str(tmp_path / "other")])
    train = load_split("train", data_args, args)
    validation = load_split("validation", data_args, args, beside=train)
    same = [name for name in validation.rows["name"] if name.startswith("c-long")]
    assert validation.facts["shared_with_training"] == len(same) >= 21


def test_a_piece_of_a_file_that_became_shorter_is_a_bad_audio(folder):
    rows, _ = prepare_speech(load_speech(str(folder)), min_seconds=0.1, max_seconds=LONGEST)
    row = next(row for row in rows if row["start"] and row["name"].startswith("b-long"))
    write(folder / "b-long.wav", talk(row["start"] / SAMPLE_RATE + 0.5))
    with pytest.raises(ValueError, match="cut short since it was prepared"):
        row_waveform(row)


def test_what_lies_in_an_archive_is_stored_in_pieces_and_not_with_each_of_them(folder):
    rows, _ = prepare_speech(encoded_rows(folder), min_seconds=0.1, max_seconds=LONGEST)
    sizes = {row["name"]: len(row["audio"]["bytes"]) for row in rows}
    assert max(size for name, size in sizes.items() if " at " in name) < (folder / "b-long.wav").stat().st_size / 5
    assert soundfile.info(io.BytesIO(rows[1]["audio"]["bytes"])).format == "FLAC"
