"""Parquet files at addresses, and WebDataset shards, here and at addresses, streamed or not."""

import http.server
import io
import json
import re
import tarfile
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from datasets import Dataset

from hf_ssl_speech import load_speech, prepare_speech
from hf_ssl_speech.data.preparing import prepare_stream
from hf_ssl_speech.data.sources import available_splits

SECONDS = (1.0, 1.5)


def encoded(seconds: float, form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).normal(size=int(seconds * 16_000)) / 8, 16_000, format=form)
    return file.getvalue()


def write_shard(path, form: str, beside: str):
    with tarfile.open(path, "w") as tar:
        for number, seconds in enumerate(SECONDS):
            text = f"word {number}"
            told = text if beside == "txt" else json.dumps({"transcript": text, "speaker": 7})
            for suffix, content in ((form, encoded(seconds, form)), (beside, told.encode())):
                member = tarfile.TarInfo(f"row-{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


class WholeFiles(http.server.SimpleHTTPRequestHandler):
    """Gives whole files only, as Python's own server does."""

    def log_message(self, *_):
        pass


class WithRanges(WholeFiles):
    """Gives parts of files, too, as servers of data do."""

    def do_GET(self):
        part = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not part:
            return super().do_GET()
        with open(self.translate_path(self.path), "rb") as file:
            content = file.read()
        first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(content[first : last + 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "shards").mkdir()
    write_shard(folder / "shards" / "train-0.tar", "flac", "json")
    write_shard(folder / "wav.tar", "wav", "txt")
    rows = [
        {"audio": {"bytes": encoded(each, "flac"), "path": None}, "text": f"word {i}"} for i, each in enumerate(SECONDS)
    ]
    Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    return folder


@contextmanager
def serving(folder, handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: handler(*given, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def address(folder):
    with serving(folder, WithRanges) as address:
        yield address


def check(source: str, streaming: bool, **settings):
    rows = load_speech(source, streaming=streaming, **settings)
    prepare = prepare_stream if streaming else lambda *given, **named: prepare_speech(*given, **named)[0]
    prepared = list(prepare(rows, min_seconds=0.5, keep=["text"]))
    assert [row["num_samples"] for row in prepared] == [int(each * 16_000) for each in SECONDS]
    assert [row["text"] for row in prepared] == ["word 0", "word 1"]
    return [row["name"] for row in prepared]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", ["rows.parquet", "wav.tar", "shards/train-0.tar"])
def test_an_address_gives_rows_with_their_transcripts(name, streaming, address):
    names = check(f"{address}/{name}", streaming)
    assert name == "rows.parquet" or names == ["row-0", "row-1"]


def test_parquet_that_a_server_gives_whole_only_is_loaded_and_its_stream_refused_in_words(folder):
    with serving(folder, WholeFiles) as address:
        check(f"{address}/rows.parquet", streaming=False)
        with pytest.raises(ValueError, match=rf"^{address}/rows.parquet can't be streamed: .*Load without streaming"):
            load_speech(f"{address}/rows.parquet", streaming=True)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", ["wav.tar", "shards/*.tar", "shards"])
def test_shards_on_this_machine_are_files_patterns_or_a_folder(name, streaming, folder):
    check(str(folder / name), streaming)


def test_shards_tell_their_split_and_an_unpacked_archive_beside_audio_is_passed_over(folder, tmp_path):
    assert available_splits(str(folder / "shards")) == ["train"]
    (tmp_path / "archive.tar").write_bytes((folder / "wav.tar").read_bytes())
    (tmp_path / "a.wav").write_bytes(encoded(2.0, "wav"))
    assert [row["id"] for row in load_speech(tmp_path)] == ["a"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.parquet", "Nothing can be loaded from .*none.parquet"),
        ("none.tar", "Nothing can be loaded from .*none.tar"),
        ("rows.csv", r"Got files \['.csv'\] at .*expected Parquet files or WebDataset shards"),
    ],
)
def test_an_address_without_shards_is_named(name, message, address):
    for streaming in (False, True):
        with pytest.raises(ValueError, match=message):
            load_speech(f"{address}/{name}", streaming=streaming)


def test_a_tar_file_without_audio_is_named(tmp_path):
    (tmp_path / "broken.tar").write_bytes(b"no tar file at all")
    with pytest.raises(ValueError, match=r"broken\.tar"):
        load_speech(tmp_path / "broken.tar")
