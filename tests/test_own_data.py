"""Every form that people have their speech in is loaded, with its transcripts, and docs/data.md shows it."""

import csv
import json
import logging
import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from datasets import Audio, Dataset, DatasetDict

from hf_ssl_speech import KMeansUnits, TextNormalization, add_units, load_speech, prepare_speech
from hf_ssl_speech.audio import BadAudio, read_audio
from hf_ssl_speech.data.columns import _say_once
from hf_ssl_speech.data.features import MfccFeatures
from hf_ssl_speech.data.preparing import prepare_stream, row_waveform
from hf_ssl_speech.data.sources import available_splits
from hf_ssl_speech.evaluation.comparison import load_evaluation_set

DOCS = (Path(__file__).parents[1] / "docs" / "data.md").read_text()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    _say_once.cache_clear()


def sound(path: Path, seed: int = 0, seconds: float = 0.5, channels: int = 1) -> np.ndarray:
    """Writes noise to a file, as the format its suffix tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (int(seconds * 16_000), channels)).squeeze()
    soundfile.write(path, noise, 16_000)
    return noise


def write(path: Path, *lines: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def forms(tmp_path, monkeypatch) -> Path:
    """A small corpus of each form of docs/data.md, under the names that it has there."""
    monkeypatch.chdir(tmp_path)
    spoken = sound(tmp_path / "recordings/a.wav")
    soundfile.write(tmp_path / "recordings/a.wav", np.concatenate([spoken, spoken / 1000]), 16_000)
    sound(tmp_path / "interviews/anna/1.wav", 1)
    sound(tmp_path / "interviews/ben/2.flac", 2)
    write(tmp_path / "interviews/metadata.csv", "file_name,transcription", "anna/1.wav,good morning", "ben/2.flac,0012")
    for place in ("dev-clean/84/121/84-121-0000", "train-clean-100/19/198/19-198-0001", "train-other-500/7/8/7-8-0002"):
        sound(tmp_path / f"LibriSpeech/{place}.flac")
        folder, name = Path(f"LibriSpeech/{place}").parent, Path(place).name
        write(folder / f"{name.rpartition('-')[0]}.trans.txt", f"{name} GO DO YOU HEAR")
    release = tmp_path / "cv-corpus/de"
    for split, clip, sentence in (
        ("train", "c1", 'Er sagte: "Ja."'),
        ("dev", "c2", "Nein"),
        ("test", "c3", '"""Ach"" so"'),
    ):
        sound(release / f"clips/{clip}.mp3")
        write(release / f"{split}.tsv", "client_id\tpath\tsentence\tage", f"x\t{clip}.mp3\t{sentence}\t")
    write(release / "validated.tsv", "client_id\tpath\tsentence", *(f"x\tc{n}\tEins" for n in (1, 2, 3)))
    write(release / "clip_durations.tsv", "clip\tduration[ms]", "c1.mp3\t500")
    sound(tmp_path / "manifests/wavs/1.wav", 1)
    sound(tmp_path / "manifests/wavs/call.wav", 2, seconds=3)
    lines = [
        {"audio_filepath": "wavs/1.wav", "text": "good morning", "duration": 0.5},
        {"audio_filepath": "wavs/call.wav", "text": "hello", "offset": 1.25, "duration": 0.5},
    ]
    write(tmp_path / "manifests/train_manifest.jsonl", *map(json.dumps, lines))
    write(tmp_path / "manifests/dev_manifest.json", json.dumps(lines[0]))
    write(tmp_path / "calls.csv", "recording_path,what_was_said,path", '"recordings/a.wav","yes, 0012",-')
    data = tmp_path / "kaldi/data/train"
    sound(data.parent / "call.wav", 5, seconds=3)
    write(data / "wav.scp", f"call {data.parent}/call.wav")
    write(data / "segments", "ben-2 call 1.5 2.25", "ann-1 call 0 0.75")
    write(data / "text", "ann-1 good morning", "ben-2 bye")
    write(data / "utt2spk", "ann-1 ann", "ben-2 ben")
    sound(tmp_path / "LJSpeech-1.1/wavs/LJ001-0001.wav")
    write(tmp_path / "LJSpeech-1.1/metadata.csv", 'LJ001-0001|Printing, "1 sense"|Printing, "one sense"')
    rows = Dataset.from_dict({"audio": [str(tmp_path / "recordings/a.wav")], "sentence": ["yes"]})
    (tmp_path / "parquet").mkdir()
    rows.to_parquet(tmp_path / "parquet/1.parquet")
    DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "saved")
    sound(tmp_path / "stereo/call.wav", channels=2)
    return tmp_path


def heard(rows: Dataset) -> list[np.ndarray]:
    return [read_audio(row["audio"]) for row in rows]


def test_the_code_of_the_page_on_data_runs(forms, capsys):
    for block in re.findall(r"```python\n(.*?)```", DOCS, flags=re.DOTALL):
        names: dict = {"load_speech": load_speech}
        exec(compile(block, "data.md", "exec"), names)
        assert len(heard(names.get("rows", []))) or "report" in names
    assert capsys.readouterr().out.splitlines() == [
        "1 ['id', 'audio']",
        "good morning",
        "84-121-0000 GO DO YOU HEAR",
        '"Ach" so x',
        "1.25 1.75",
        "yes, 0012",
        "ben-2 ben bye",
        'Printing, "one sense"',
        "0 of 1 rows skipped",
        "1 stretches of speech in 1 recordings, found by their energy: 38.5% of 0.00 hours is dropped",
    ]


FORMS = {
    "recordings": (["train"], [None]),
    "interviews": (["train"], ["good morning", "0012"]),
    "LibriSpeech": (["train", "dev", "dev-clean", "train-clean-100", "train-other-500"], ["GO DO YOU HEAR"] * 2),
    "cv-corpus": (["train", "dev", "test", "validated"], ['Er sagte: "Ja."']),
    "cv-corpus/de": (["train", "dev", "test", "validated"], ['Er sagte: "Ja."']),
    "manifests": (["dev", "train"], ["good morning", "hello"]),
    "manifests/train_manifest.jsonl": (["train"], ["good morning", "hello"]),
    "kaldi/data": (["train"], ["bye", "good morning"]),
    "kaldi/data/train": (["train"], ["bye", "good morning"]),
    "LJSpeech-1.1": (["train"], ['Printing, "one sense"']),
    "parquet": (["train"], ["yes"]),
    "saved": (["train", "validation"], ["yes"]),
}


@pytest.mark.parametrize("source", FORMS)
def test_each_form_has_its_splits_and_its_transcripts_streamed_or_not(forms, source):
    splits, texts = FORMS[source]
    assert available_splits(source) == splits
    for streaming in (False, True):
        rows = list(load_speech(source, streaming=streaming))
        assert [row.get("text") for row in rows] == texts
        assert all(len(waveform) for waveform in heard(rows))


@pytest.mark.parametrize("source", ["manifests/train_manifest.jsonl", "kaldi/data", "cv-corpus/de", "LJSpeech-1.1"])
def test_recognisers_are_scored_on_transcripts_from_files(forms, source):
    scored = load_evaluation_set([source], TextNormalization(), split="train")
    assert scored.references == [TextNormalization()(text) for text in FORMS[source][1]]


def test_a_row_that_is_a_part_of_its_audio_is_that_part_everywhere(forms):
    whole = read_audio(str(forms / "kaldi/data/call.wav"))
    parts = [whole[24_000:36_000], whole[:12_000]]
    rows = load_speech("kaldi/data")
    assert rows["segment_start"][:] == [1.5, 0.0] and rows["speaker"][:] == ["ben", "ann"]
    for cache in (False, True):
        prepared, report = prepare_speech(rows, min_seconds=0.1, cache=cache, keep=["text"])
        assert report.num_skipped == 0 and prepared["num_samples"][:] == [12_000, 12_000]
        for row, part in zip(prepared, parts):
            np.testing.assert_allclose(row_waveform(row), part, atol=1e-4)
    streamed = list(prepare_stream(load_speech("kaldi/data", streaming=True), min_seconds=0.1, keep=["text"]))
    assert [row["num_samples"] for row in streamed] == [12_000, 12_000]
    np.testing.assert_array_equal(streamed[0]["samples"], prepared[0]["samples"])


@pytest.mark.parametrize("cache", [False, True])
def test_a_long_segment_is_cut_into_pieces_of_the_segment(tmp_path, cache):
    sound(tmp_path / "talk.wav", seconds=60)
    write(tmp_path / "m.jsonl", json.dumps({"path": "talk.wav", "offset": 10, "duration": 45}))
    rows = load_speech(str(tmp_path / "m.jsonl"))
    pieces, _ = prepare_speech(rows, min_seconds=0.1, max_seconds=10, cache=cache)
    together = np.concatenate([row_waveform(row) for row in pieces])
    np.testing.assert_allclose(together, read_audio(str(tmp_path / "talk.wav"))[160_000:880_000], atol=1e-4)
    assert pieces["name"][0] == "talk at 10.00 s"


@pytest.mark.parametrize("cache", [False, True])
def test_a_segment_beyond_its_audio_is_named(tmp_path, cache):
    sound(tmp_path / "a.wav", seconds=2)
    lines = [{"path": "a.wav", "offset": o, "duration": d} for o, d in ((0, 2.2), (1, 3), (5, 1))]
    write(tmp_path / "m.jsonl", *map(json.dumps, lines))
    prepared, report = prepare_speech(load_speech(str(tmp_path / "m.jsonl")), min_seconds=0.1, cache=cache)
    assert prepared["num_samples"][:] == [32_000]  # rounded times are no damage
    assert report.skipped == {"cut short: its segment ends after the audio": ["a (row 1)", "a (row 2)"]}


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("part", [{"offset": -0.2, "duration": 0.3}, {"offset": 0.2, "duration": 0}])
def test_a_segment_that_begins_before_its_audio_or_has_no_length_is_named(tmp_path, part, cache):
    sound(tmp_path / "a.wav")
    good = {"audio_filepath": "a.wav", "offset": 0, "duration": 0.4}
    write(tmp_path / "t.jsonl", json.dumps(good), json.dumps(good | part))
    _, report = prepare_speech(load_speech(str(tmp_path / "t.jsonl")), min_seconds=0.1, cache=cache)
    assert any("its segment begins before" in reason for reason in report.skipped)


def test_a_pipe_in_wav_scp_is_refused_by_name_and_never_run(tmp_path):
    write(tmp_path / "wav.scp", f"ann-1 touch {tmp_path}/hacked |")
    with pytest.raises(ValueError, match=r"wav.scp makes ann-1 with a command, which is not run"):
        load_speech(str(tmp_path))
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        ("segments", ["a nowhere 0 1"], r"cuts a out of nowhere, which wav.scp does not have"),
        ("segments", ["a r 2 1"], r"expected a recording, a start and a later end"),
        ("text", ["a one", "a two"], r"text has 1 names more than once"),
    ],
)
def test_what_is_wrong_in_a_kaldi_directory_is_named(tmp_path, file, lines, message):
    sound(tmp_path / "r.wav")
    write(tmp_path / "wav.scp", "r r.wav", "a r.wav")
    write(tmp_path / file, *lines)
    with pytest.raises(ValueError, match=message):
        load_speech(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "path,text\na.wav,one\nb.wav\n", r"Line 3 of .*t.csv has 1 fields, but the first line names 2"),
        ("t.csv", 'path,text\na.wav,"one\nb.wav,two\n', r"Line 2 of .*t.csv is no CSV"),
        ("t.tsv", "path\ttext\na.wav\tone\tmore\n", r"Line 2 of .*t.tsv has 3 fields"),
        ("t.jsonl", '{"path": "a.wav"}\n{"path": \n', r"Line 2 of .*t.jsonl is not JSON"),
        ("t.jsonl", '{"path": "a.wav"}\n[1]\n', r"Line 2 of .*t.jsonl is not a JSON object"),
        ("t.csv", "name,words\nx,y\n", r"no column 'audio'.*audio_column.*'name', 'words'"),
    ],
)
def test_a_line_that_can_not_be_read_is_named(tmp_path, name, content, message):
    write(tmp_path / name, content.rstrip("\n"))
    with pytest.raises(ValueError, match=message):
        load_speech(str(tmp_path / name))


def test_fields_are_taken_as_they_are_written(tmp_path):
    texts = ["0012", "NA", "1e3", "", 'say "hi", then', "two\nlines", "wörter\u2028ohne Ende", "\ttab"]
    with open(tmp_path / "t.csv", "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["path", "text"], *(["a.wav", text] for text in texts)])
    assert load_speech(str(tmp_path / "t.csv"))["text"][:] == texts
    values = [None, "a", 3, ["x"]]
    write(tmp_path / "t.jsonl", *(json.dumps({"path": "a.wav", "note": value}) for value in values))
    assert load_speech(str(tmp_path / "t.jsonl"))["note"][:] == [None, "a", "3", '["x"]']


def test_what_was_guessed_is_said_once_and_what_is_named_is_taken(tmp_path, caplog):
    sound(tmp_path / "a.wav")
    write(tmp_path / "t.csv", "Path,sentence,raw_text", "a.wav,guessed,named")
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            rows = load_speech(str(tmp_path / "t.csv"))
    assert rows["text"][:] == ["guessed"] and len(heard(rows)) == 1
    assert caplog.text.count("the column 'Path' is taken for the audio") == 1
    assert caplog.text.count("the column 'sentence' is taken for the transcripts") == 1
    rows = load_speech(str(tmp_path / "t.csv"), audio_column="Path", text_column="raw_text")
    assert rows["text"][:] == ["named"]
    with pytest.raises(ValueError, match=r"no columns \['words'\].*text_column"):
        load_speech(str(tmp_path / "t.csv"), text_column="words")


def test_a_text_file_beside_an_audio_is_its_transcript_unless_a_table_has_one(tmp_path, caplog):
    for name in ("a.wav", "b.mp3", "c.flac"):
        sound(tmp_path / name)
    write(tmp_path / "a.txt", "\ufeffgood", "morning")
    write(tmp_path / "c.TXT", "good night")
    write(tmp_path / "notes.txt", "nothing that was said")
    assert load_speech(str(tmp_path))["text"][:] == ["good\nmorning", None, "good night"]
    assert "1 .txt files" in caplog.text and "1 of 3 files have no transcript" in caplog.text
    write(tmp_path / "metadata.csv", "file_name,text", "a.wav,bye")
    assert load_speech(str(tmp_path))["text"][:] == ["bye", None, "good night"]


@pytest.mark.parametrize(
    "table",
    ["sep=;\npath;text\na.wav;hi, you\n", '"path","te,xt"\na.wav,"hi, you"\n', 'path, text\n a.wav ,"hi, you"\n'],
)
def test_a_table_as_excel_and_others_write_it_is_read(tmp_path, table):
    sound(tmp_path / "a.wav")
    (tmp_path / "t.csv").write_text(table)
    rows = load_speech(str(tmp_path / "t.csv"))
    assert "hi, you" in rows[0].values() and len(heard(rows)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,text\n", "has no rows; expected a first line with the columns' names"),
        ("", "has no rows"),
        ('{\n "data": [{"path": "a.wav"}]\n}', "holds one JSON value: write an object for each row"),
    ],
)
def test_a_table_without_rows_says_so(tmp_path, content, message):
    path = tmp_path / ("t.json" if "{" in content else "t.csv")
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_speech(str(path))


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "binary_view", "fixed", "large_binary"])
def test_audio_and_text_may_be_of_any_of_arrows_types(tmp_path, kind):
    noise, path = sound(tmp_path / "a.wav"), str(tmp_path / "a.wav")
    encoded = Path(path).read_bytes()
    types = {"fixed": pyarrow.binary(len(encoded))}
    arrow = types.get(kind) or getattr(pyarrow, kind)()
    text = arrow if "string" in kind else pyarrow.string()
    value = path if "string" in kind else encoded
    table = pyarrow.table({"audio": pyarrow.array([value], arrow), "text": pyarrow.array(["yes"], text)})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    pyarrow.parquet.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    rows = load_speech(str(tmp_path / "*.parquet"))
    assert len(heard(rows)[0]) == len(noise) and rows["text"][:] == ["yes"]


def test_metadata_reaches_the_splits_below_it_and_files_without_a_line_are_counted(tmp_path, caplog):
    for name in ("train/a.wav", "train/b.wav", "test/c.wav"):
        sound(tmp_path / name)
    write(
        tmp_path / "metadata.jsonl", *(json.dumps({"file_name": n, "text": n}) for n in ("train/a.wav", "test/c.wav"))
    )
    assert load_speech(str(tmp_path))["text"][:] == ["train/a.wav", None]
    assert "1 of 2 files have no transcript" in caplog.text
    assert load_speech(str(tmp_path), split="test")["text"][:] == ["test/c.wav"]
    write(tmp_path / "train/metadata.csv", "file_name,text", "gone.wav,words")
    _, report = prepare_speech(load_speech(str(tmp_path)), min_seconds=0.1)
    assert report.skipped == {"missing: no such file": ["gone"]}


def test_several_common_voice_releases_are_not_mixed_and_validated_is_warned_of(forms, caplog):
    assert len(load_speech("cv-corpus/de", split="validated")) == 3
    assert "also holds the clips of dev and test" in caplog.text
    sound(forms / "cv-corpus/fr/clips/c.mp3")
    write(forms / "cv-corpus/fr/train.tsv", "path\tsentence", "c.mp3\toui")
    with pytest.raises(ValueError, match=r"several releases: name one of .*de, .*fr"):
        load_speech("cv-corpus")


def test_what_is_passed_over_in_a_folder_is_counted_by_kind(tmp_path, caplog):
    sound(tmp_path / "a.wav")
    for name in ("b.mid", "c.mid", "notes.txt", "README.md", ".DS_Store", "._a.wav"):
        (tmp_path / name).write_bytes(b"x")
    assert load_speech(str(tmp_path))["id"][:] == ["a"]
    assert "2 .mid, 1 .txt files" in caplog.text and "README" not in caplog.text


def test_hidden_folders_are_not_read(tmp_path):
    for name in ("a.wav", ".ipynb_checkpoints/a-checkpoint.wav", "b/.cache/c.wav"):
        sound(tmp_path / name)
    assert load_speech(str(tmp_path))["id"][:] == ["a"]


def test_a_table_from_windows_names_files_with_backslashes(tmp_path, caplog):
    for name in ("clips/a.wav", "clips/b.wav"):
        sound(tmp_path / name)
    write(tmp_path / "metadata.csv", "file_name,text", "clips\\a.wav,one", "clips\\b.wav,two")
    rows = load_speech(str(tmp_path))
    assert rows["id"][:] == ["a", "b"] and rows["text"][:] == ["one", "two"]
    assert "no transcript" not in caplog.text


def test_a_name_may_have_its_accent_as_a_letter_of_its_own_on_either_side(tmp_path, caplog):
    sound(tmp_path / "cafe\u0301.wav")
    sound(tmp_path / "\u00e9t\u00e9.wav")
    write(tmp_path / "metadata.csv", "file_name,text", "caf\u00e9.wav,one", "e\u0301te\u0301.wav,two")
    assert sorted(load_speech(str(tmp_path))["text"]) == ["one", "two"]
    assert "no transcript" not in caplog.text


def test_lines_of_a_table_about_files_elsewhere_are_counted(tmp_path, caplog):
    sound(tmp_path / "a.wav")
    sound(tmp_path / "in/b.wav")
    write(tmp_path / "in/metadata.csv", "file_name,text", "../a.wav,one", "b.wav,two")
    assert load_speech(str(tmp_path / "in"))["text"][:] == ["two"]
    assert "names 1 files outside of" in caplog.text
    caplog.clear()
    assert sorted(load_speech(str(tmp_path / "in/metadata.csv"))["text"]) == ["one", "two"]


def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path):
    sound(tmp_path / "a.wav")
    write(tmp_path / "metadata.csv", "file_name,text,text", "a.wav,one,two")
    with pytest.raises(ValueError, match=r"several columns 'text'"):
        load_speech(str(tmp_path))


@pytest.mark.parametrize("listed", [False, True])
def test_half_a_character_in_json_is_named_and_a_whole_one_is_read(listed, tmp_path):
    sound(tmp_path / "a.wav")
    line = '{"file_name": "a.wav", "text": "TEXT"}'
    for text, whole in ((r"hi \ud83d\ude00", True), (r"hi \ud83d there", False), (r"\\ud83d", True)):
        written = line.replace("TEXT", text)
        write(tmp_path / "metadata.jsonl", f"[{written}]" if listed else written)
        if whole:
            assert load_speech(str(tmp_path))["text"][0] in ("hi \U0001f600", r"\ud83d")
        else:
            with pytest.raises(ValueError, match=r"metadata\.jsonl holds half a character, '\\ud83d'"):
                load_speech(str(tmp_path))


def test_a_json_row_with_two_values_of_a_name_is_named(tmp_path):
    sound(tmp_path / "a.wav")
    write(tmp_path / "t.jsonl", '{"audio": "a.wav", "text": "one"}', '{"audio": "a.wav", "text": "two", "text": "too"}')
    with pytest.raises(ValueError, match=r"Line 2 of .*t\.jsonl has several values of 'text': keep one"):
        load_speech(str(tmp_path / "t.jsonl"))


def test_an_audio_in_json_may_be_an_object_with_its_path_and_nothing_else(tmp_path):
    sound(tmp_path / "a.wav")
    write(tmp_path / "t.jsonl", '{"audio": {"path": "a.wav"}, "sentence": "one", "duration": 1.0}')
    rows = load_speech(str(tmp_path / "t.jsonl"))
    assert rows["id"][:] == ["a"] and rows["text"][:] == ["one"] and len(heard(rows)) == 1
    write(tmp_path / "cuts.jsonl", '{"recording": {"sources": [{"source": "a.wav"}]}, "text": "one"}')
    with pytest.raises(ValueError, match=r"'recording' of .*cuts\.jsonl holds .*expected the path of an audio file"):
        load_speech(str(tmp_path / "cuts.jsonl"))


@pytest.mark.parametrize(("suffix", "line"), [("wrd", "good morning"), ("ltr", "g o o d | m o r n i n g |")])
def test_fairseqs_manifests_are_read_with_their_transcripts(tmp_path, suffix, line):
    sound(tmp_path / "audio" / "a.wav")
    sound(tmp_path / "audio" / "b.wav")
    write(tmp_path / "lists" / "train.tsv", str(tmp_path / "audio"), "a.wav\t16000", "b.wav\t16000")
    for source in (tmp_path / "lists", tmp_path / "lists" / "train.tsv"):
        rows = load_speech(str(source))
        assert len(heard(rows)) == 2 and "text" not in rows.column_names
    write(tmp_path / "lists" / f"train.{suffix}", line, line)
    assert load_speech(str(tmp_path / "lists"))["text"][:] == ["good morning"] * 2
    write(tmp_path / "lists" / f"train.{suffix}", line)
    with pytest.raises(ValueError, match="has 1 lines for the 2 recordings"):
        load_speech(str(tmp_path / "lists"))
    write(tmp_path / "lists" / "train.tsv", str(tmp_path / "audio"), "a.wav\t16000", "b.wav")
    with pytest.raises(ValueError, match=r"Line 3 of .*train\.tsv is no path and number of samples"):
        load_speech(str(tmp_path / "lists"))


def test_tables_of_a_folder_that_contradict_each_other_are_refused(tmp_path):
    sound(tmp_path / "a.wav")
    write(tmp_path / "metadata.jsonl", '{"file_name": "a.wav", "text": "one"}')
    write(tmp_path / "metadata.csv", "file_name,text", "a.wav,one")
    assert load_speech(str(tmp_path))["text"][:] == ["one"]
    write(tmp_path / "metadata.csv", "file_name,speaker", "a.wav,anna")
    assert load_speech(str(tmp_path))[0].items() >= {"text": "one", "speaker": "anna"}.items()
    write(tmp_path / "metadata.csv", "file_name,text", "a.wav,two")
    with pytest.raises(ValueError, match=r"say different things of 1 files, as of .*a\.wav: keep one"):
        load_speech(str(tmp_path))


def test_nan_in_json_is_no_word(tmp_path):
    for name in ("a.wav", "b.wav"):
        sound(tmp_path / name)
    write(tmp_path / "metadata.jsonl", '{"file_name": "a.wav", "text": NaN}', '{"file_name": "b.wav", "text": "two"}')
    assert load_speech(str(tmp_path))["text"][:] == [None, "two"]


@pytest.mark.parametrize("suffix", ["sph", "aifc", "voc", "htk", "sf", "snd", "pvf", "paf", "w64", "caf", "wave"])
def test_formats_that_libsndfile_reads_are_taken_beside_others(tmp_path, suffix):
    kinds = {"sph": "NIST", "aifc": "AIFF", "sf": "IRCAM", "snd": "AU", "wave": "WAV"}
    soundfile.write(tmp_path / f"b.{suffix}", np.zeros(8_000) + 0.1, 16_000, format=kinds.get(suffix, suffix.upper()))
    sound(tmp_path / "a.wav")
    prepared, report = prepare_speech(load_speech(str(tmp_path)), min_seconds=0.1)
    assert prepared["num_samples"][:] == [8_000, 8_000] and report.num_skipped == 0


ODD = ["a [v1]", "50%20", "wh?t", "st*r", "{a,b}", "#1", "q'uo\"te", "two  spaces ", "$HOME", "~", "x::y", "new\nline"]


@pytest.mark.parametrize("name", ODD)
def test_any_character_may_stand_in_a_path(tmp_path, name):
    folder = tmp_path / name
    sound(folder / "audio" / f"{name}.wav")
    rows = Dataset.from_dict({"audio": [str(folder / "audio" / f"{name}.wav")], "text": ["x"]})
    (folder / "parquet").mkdir()
    with open(folder / "parquet" / "train.parquet", "wb") as file:  # a path with "::" is an address to `datasets`
        rows.to_parquet(file)
    with open(folder / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "text"], [f"audio/{name}.wav", "x"]])
    sources = ["audio", f"audio/{name}.wav", "t.csv", "parquet", "parquet/train.parquet"]
    for source in sources:
        assert len(heard(load_speech([str(folder / source)]))) == 1, source


@pytest.mark.parametrize("cache", [False, True])
def test_ids_that_repeat_get_their_rows_number(tmp_path, cache):
    sound(tmp_path / "a.wav")
    rows = Dataset.from_dict({"id": [0, 7, 0, 0], "audio": [str(tmp_path / "a.wav")] * 3 + ["gone.wav"]})
    rows = rows.cast_column("audio", Audio())  # as any dataset has it, and without torchcodec
    prepared, report = prepare_speech(rows, min_seconds=0.1, cache=cache)
    assert prepared["name"][:] == ["0 (row 0)", "7", "0 (row 2)"] and prepared["sample_id"][:] == [0, 1, 2]
    assert report.skipped == {"missing: no such file": ["0 (row 3)"]}


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("form", ["csv", "parquet", "folder", "saved"])
def test_audio_that_changed_behind_its_path_is_read_again(tmp_path, form, cache):
    sound(tmp_path / "audio/y.wav")
    (tmp_path / "audio/x.wav").write_bytes(b"broken")
    paths = [str(tmp_path / "audio" / name) for name in ("x.wav", "y.wav")]
    source = tmp_path / {"csv": "t.csv", "parquet": "t.parquet", "folder": "audio", "saved": "saved"}[form]
    if form == "csv":
        write(source, "path", *paths)
    elif form == "parquet":
        Dataset.from_dict({"audio": paths}).to_parquet(source)
    elif form == "saved":
        Dataset.from_dict({"audio": paths}).save_to_disk(source)
    before, report = prepare_speech(load_speech([str(source)]), min_seconds=0.1, cache=cache)
    assert report.num_skipped == 1
    sound(tmp_path / "audio/x.wav", 1)
    sound(tmp_path / "audio/y.wav", 2, seconds=1)
    after, report = prepare_speech(load_speech([str(source)]), min_seconds=0.1, cache=cache)
    assert report.num_skipped == 0 and after["num_samples"][:] == [8_000, 16_000]
    assert after._fingerprint != before._fingerprint


@pytest.mark.parametrize("streaming", [False, True])
def test_cached_rows_with_units_are_read_back_from_parquet(forms, tmp_path, streaming):
    prepared, _ = prepare_speech(load_speech("interviews"), min_seconds=0.1, cache=True, keep=["text"])
    source = MfccFeatures()
    labelled = add_units(prepared, KMeansUnits.fit(prepared, source, 4), source=source)
    labelled.to_parquet(tmp_path / "labelled.parquet")
    rows = load_speech(str(tmp_path / "labelled.parquet"), streaming=streaming)
    for row, before in zip(rows, labelled):
        assert row["id"] == before["name"] and row["text"] == before["text"] and row["units"] == list(before["units"])
        np.testing.assert_array_equal(read_audio(row["audio"]), row_waveform(before))


@pytest.mark.parametrize("cache", [False, True])
def test_one_channel_is_taken_of_every_row(tmp_path, cache):
    both = sound(tmp_path / "call.wav", channels=2)
    for channel in (1, 2):
        prepared, _ = prepare_speech(load_speech(str(tmp_path)), min_seconds=0.1, channel=channel, cache=cache)
        np.testing.assert_allclose(row_waveform(prepared[0]), both[:, channel - 1], atol=1e-4)
    if cache:
        with pytest.raises(ValueError, match="without a channel 3: it has 2"):
            prepare_speech(load_speech(str(tmp_path)), min_seconds=0.1, channel=3, cache=True)
        return
    prepared, _ = prepare_speech(load_speech(str(tmp_path)), min_seconds=0.1, channel=3)
    with pytest.raises(BadAudio, match="without a channel 3: it has 2"):
        row_waveform(prepared[0])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_condition_takes_the_rows_of_a_column_value_from_its_own_source_alone(tmp_path, streaming):
    for name, languages in (("many", ["ru", "de", "ru", "cy"]), ("english", ["en", "en"])):
        for place in range(len(languages)):
            sound(tmp_path / name / f"{place}.wav", place)
        lines = [f"{place}.wav,{language}" for place, language in enumerate(languages)]
        write(tmp_path / name / "metadata.csv", "file_name,language", *lines)

    def languages(*sources):
        return [row["language"] for row in load_speech(list(sources), streaming=streaming)]

    many = str(tmp_path / "many")
    assert languages(f"{many}[language=ru]") == ["ru", "ru"]
    assert languages(str(tmp_path / "english"), f"{many}[language=ru|cy]") == ["en", "en", "ru", "ru", "cy"]
    assert available_splits(f"{many}[language=ru]") == ["train"]
    with pytest.raises(ValueError, match=r"no column 'speaker' to choose rows by"):
        languages(f"{many}[speaker=a]")
    if not streaming:
        assert languages(f"{many}[language=ru][id=0]") == ["ru"]
        with pytest.raises(ValueError, match=r"No row .* has 'fr' in the column 'language'; there are cy, de, ru"):
            languages(f"{many}[language=fr]")


def test_a_path_with_a_condition_in_its_name_is_that_path(tmp_path):
    sound(tmp_path / "a[b=c]" / "1.wav")
    assert len(load_speech([str(tmp_path / "a[b=c]")])) == 1
