"""Mutated files of every kind that is read: each is understood or refused in a sentence, in little time and memory."""

import io
import json
import random
import re
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from conftest import tiny_model
from huggingface_hub.errors import StrictDataclassError

import hf_ssl_speech
from hf_ssl_speech import BeamSettings, KMeansUnits, TextNormalization
from hf_ssl_speech.audio import BadAudio, count_samples, read_audio
from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.data.features import FeatureDescription
from hf_ssl_speech.evaluation.comparison import read_scores, save_scores
from hf_ssl_speech.hub.cards import find_kind
from hf_ssl_speech.recipes.inputs import SpeechDataArguments
from hf_ssl_speech.recognition.language_model import read_words, write_ngram
from hf_ssl_speech.recognition.transcription import load_recognizer
from hf_ssl_speech.records import read_record, write_record
from hf_ssl_speech.training.checkpoints import MANIFEST_FILE, damage, write_manifest
from torture.processes import Trial

IN_WORDS = (ValueError, OSError, StrictDataclassError)
MOST_SECONDS, MOST_BYTES = 2.0, 1e9
ODD_VALUES = (None, True, -1, 0, 10**40, 1e400, "", "\x00", [], {}, [[]], {"a": {"a": 1}})
ODD_BYTES = (b"\x00", b"\xff\xfe", b"[" * 5000, b"9" * 5000, b"&a *b", b"\t- x: :")


@dataclass(frozen=True)
class Source:
    """A file that is read: how a sound one is made in a folder, and how the folder is read."""

    make: Callable[[Path], Any]
    read: Callable[[Path], Any]


def save_arguments(folder: Path):
    text = "train_data: [a, b]\naudio_column: audio\nstreaming: false\nunits:\nprepare_workers: 2\n"
    (folder / "arguments.yaml").write_text(text)


def save_units(folder: Path):
    facts = {"hours": 1.0, "seed": 0}
    KMeansUnits(torch.eye(4, 39), torch.ones(4), FeatureDescription("mfcc", 39, 320, 400), facts).save_pretrained(
        folder
    )


def save_recognizer(folder: Path):
    processor = hf_ssl_speech.make_processor(["abc"])
    sizes = dict(vocab_size=len(processor.tokenizer), pad_token_id=0)
    tiny_model(hf_ssl_speech.SSLWav2Vec2ForCTC, **sizes).save_pretrained(folder)
    processor.save_pretrained(folder)


def open_recognizer(folder: Path):
    find_kind(folder)
    load_recognizer(folder)


def save_checkpoint(folder: Path):
    (folder / "weights").write_bytes(bytes(100))
    write_manifest(folder)


def save_audio(folder: Path, form: str):
    wave = np.random.default_rng(0).normal(size=4_000) / 8
    soundfile.write(folder / f"audio.{form}", wave, 16_000, format=form)


def open_audio(folder: Path, form: str):
    path = folder / f"audio.{form}"
    with suppress(BadAudio):
        count_samples({"bytes": None, "path": str(path)})
    try:
        read_audio(path.read_bytes())
    except BadAudio as error:  # its message leaves the name to the caller
        raise BadAudio(f"{path}: {error}") from error


AUDIO = {
    f"audio.{form}": Source(partial(save_audio, form=form), partial(open_audio, form=form))
    for form in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "W64", "CAF")
}
FILES = {
    "run.json": Source(
        lambda folder: write_record({"status": "running", "curves": [{"step": 1}]}, folder), read_record
    ),
    "scores.json": Source(lambda folder: save_scores([], folder), read_scores),
    "decoder.json": Source(lambda folder: BeamSettings(words="words.txt").save(folder), BeamSettings.load),
    "text_normalization.json": Source(TextNormalization().save_pretrained, TextNormalization.from_pretrained),
    "kmeans.json": Source(save_units, KMeansUnits.from_pretrained),
    "kmeans.safetensors": Source(save_units, KMeansUnits.from_pretrained),
    MANIFEST_FILE: Source(save_checkpoint, damage),
    "arguments.yaml": Source(
        save_arguments, lambda folder: parse_arguments([str(folder / "arguments.yaml")], SpeechDataArguments)
    ),
    "words.arpa": Source(
        lambda folder: write_ngram(["one two", "two three"], folder / "words.arpa"),
        lambda folder: read_words(folder / "words.arpa"),
    ),
}
RECOGNIZER = {
    name: Source(save_recognizer, open_recognizer)
    for name in ("config.json", "model.safetensors", "vocab.json", "tokenizer_config.json", "processor_config.json")
}


def mutate_json(content, draw: random.Random):
    """One entry, at any depth, replaced by an odd value, missing, foreign, or nested a thousand times."""
    places = []

    def walk(value):
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            walk(value[key])

    walk(content)
    if not places:
        return draw.choice(ODD_VALUES)
    owner, key = draw.choice(places)
    if draw.random() < 0.2:
        del owner[key]
    elif draw.random() < 0.1 and isinstance(owner, dict):
        owner["nobody knows this"] = 1
    else:
        owner[key] = draw.choice(ODD_VALUES)
    return content


def mutate(content: bytes, draw: random.Random, is_json: bool) -> bytes:
    """The content cut, with a bit flipped, with something put in or taken out, or two parts of it joined.

    Half of the mutations of a file with a header are in its first 200 bytes.
    """
    if is_json and draw.random() < 0.5:
        return json.dumps(mutate_json(json.loads(content), draw)).encode()
    place = draw.randrange(min(len(content), 200) if draw.random() < 0.5 else len(content))
    before, after = content[:place], content[place:]
    return draw.choice(
        [
            before,
            before + bytes([after[0] ^ (1 << draw.randrange(8))]) + after[1:],
            before + draw.choice(ODD_BYTES) + after,
            before + after[draw.randrange(1, 9) :],
            before + content[draw.randrange(len(content)) :],
            before + draw.randbytes(4) + after[4:],
        ]
    )


@contextmanager
def measured(found: dict[str, Any]):
    """Notes the processor's seconds that a block takes, the bytes by which memory grows, and what nobody can catch."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
    before, started = memory("VmRSS"), time.process_time()
    printed, sys.unraisablehook = sys.unraisablehook, lambda problem: found.setdefault("unraisable", problem.exc_value)
    try:
        yield
    finally:
        sys.unraisablehook = printed
        found["seconds"] = time.process_time() - started
        found["bytes"] = memory("VmHWM") - before


def memory(entry: str) -> int:
    """Bytes that this process has in memory (VmRSS), or had at the most (VmHWM); 0 where the system does not tell."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{entry}:"):
                return 1024 * int(line.split()[1])
    return 0


def torment(folder: Path, name: str, source: Source, number: int, seed: int = 0) -> Trial:
    """Reads a file after so many mutations, one at a time.

    Returns:
        A trial whose failures are raw tracebacks, refusals that name neither file nor setting, and what took too long
        or too much memory.
    """
    path = folder / name
    source.make(folder)
    source.read(folder)
    original, draw = path.read_bytes(), random.Random(f"{seed} {name}")
    trial, most = Trial("Mutated", name, number), {"seconds": 0.0, "bytes": 0.0, "refused": 0}
    for mutation in range(number):
        path.write_bytes(mutate(original, draw, path.suffix == ".json"))
        found: dict[str, Any] = {}
        try:
            with measured(found), redirect_stderr(io.StringIO()):
                source.read(folder)
        except IN_WORDS as error:
            most["refused"] += 1
            if str(folder) not in str(error) and not re.search(r"--\w", str(error)):
                trial.failures.append(f"mutation {mutation}: neither the file nor the setting is named: {error!r}")
        except Exception as error:
            trial.failures.append(f"mutation {mutation}: raw {error!r}")
        if "unraisable" in found:
            trial.failures.append(f"mutation {mutation}: a traceback was printed: {found['unraisable']!r}")
        if found["seconds"] > MOST_SECONDS or found["bytes"] > MOST_BYTES:
            trial.failures.append(f"mutation {mutation}: {found['seconds']:.1f} s, {found['bytes'] / 1e9:.2f} GB")
        most |= {what: max(most[what], found[what]) for what in ("seconds", "bytes")}
    path.write_bytes(original)
    trial.remark = (
        f"{most['refused']:,} refused in words; at the most {most['seconds']:.2f} s, {most['bytes'] / 1e6:.0f} MB"
    )
    return trial


def torment_kind(folder: Path, kind: str, number: int, seed: int) -> list[Trial]:
    """Mutates all files of a kind (json, yaml, arpa, safetensors or audio), so many times together."""
    sources = AUDIO if kind == "audio" else FILES | RECOGNIZER
    names = [name for name in sources if kind == "audio" or name.endswith(kind)]
    trials = []
    for name in names:
        (folder / name).mkdir()
        trials.append(torment(folder / name, name, sources[name], -(-number // len(names)), seed))
    return trials
