"""Whatever stands in a file that is read, it is understood or refused in a sentence that names the file."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

import hf_ssl_speech
from hf_ssl_speech import BeamSettings, KMeansUnits, SpeechDataArguments, TextNormalization
from hf_ssl_speech.data.features import FeatureDescription
from hf_ssl_speech.evaluation.comparison import read_scores, save_scores
from hf_ssl_speech.hub.cards import find_kind
from hf_ssl_speech.recognition.language_model import read_words, write_ngram
from hf_ssl_speech.recognition.transcription import load_recognizer
from hf_ssl_speech.records import read_record, write_record
from hf_ssl_speech.training.arguments import parse_arguments

MUTATIONS = int(os.environ.get("MUTATIONS", "40"))
IN_WORDS = (ValueError, OSError, StrictDataclassError)
ODD_VALUES = (None, True, -1, 0, 10**40, 1e400, "", "\x00", [], {}, [[]], {"a": {"a": 1}})


def save_arguments(folder: Path):
    text = "train_data: [a, b]\naudio_column: audio\nstreaming: false\nunits:\nprepare_workers: 2\n"
    (folder / "arguments.yaml").write_text(text)


def save_units(folder: Path):
    facts = {"hours": 1.0, "seed": 0}
    KMeansUnits(torch.eye(4, 39), torch.ones(4), FeatureDescription("mfcc", 39, 320, 400), facts).save_pretrained(
        folder
    )


FILES = {
    "run.json": (lambda folder: write_record({"status": "running", "curves": [{"step": 1}]}, folder), read_record),
    "scores.json": (lambda folder: save_scores([], folder), read_scores),
    "decoder.json": (lambda folder: BeamSettings(words="words.txt").save(folder), BeamSettings.load),
    "text_normalization.json": (TextNormalization().save_pretrained, TextNormalization.from_pretrained),
    "kmeans.json": (save_units, KMeansUnits.from_pretrained),
    "kmeans.safetensors": (save_units, KMeansUnits.from_pretrained),
    "arguments.yaml": (
        save_arguments,
        lambda folder: parse_arguments([str(folder / "arguments.yaml")], SpeechDataArguments),
    ),
    "words.arpa": (
        lambda folder: write_ngram(["one two", "two three"], folder / "words.arpa"),
        lambda folder: read_words(folder / "words.arpa"),
    ),
}
RECOGNIZER_FILES = ("config.json", "model.safetensors", "vocab.json", "tokenizer_config.json", "processor_config.json")


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


def mutate(data: bytes, draw: random.Random, is_json: bool) -> bytes:
    if is_json and draw.random() < 0.5:
        return json.dumps(mutate_json(json.loads(data), draw)).encode()
    place = draw.randrange(len(data))
    kind = draw.randrange(5)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]
    if kind == 2:
        return (
            data[:place]
            + draw.choice([b"\x00", b"\xff\xfe", b"[" * 5000, b"9" * 5000, b"&a *b", b"\t- x: :"])
            + data[place:]
        )
    if kind == 3:
        return data[:place] + data[place + draw.randrange(1, 9) :]
    return data[:place] + data[draw.randrange(len(data)) :]


def check_mutations(path: Path, read, folder: Path):
    original, draw = path.read_bytes(), random.Random(path.name)
    for number in range(MUTATIONS):
        path.write_bytes(mutate(original, draw, path.suffix == ".json"))
        try:
            read(folder)
        except IN_WORDS as error:
            named = str(folder) in str(error) or "argument --" in str(error).lower()
            assert named, f"mutation {number}: neither the file nor the setting is named: {error!r}"
    path.write_bytes(original)


@pytest.mark.parametrize("name", FILES)
def test_a_mutated_file_is_understood_or_refused_by_name(name, tmp_path):
    save, read = FILES[name]
    save(tmp_path)
    read(tmp_path)
    check_mutations(tmp_path / name, read, tmp_path)


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory, request):
    from conftest import tiny_model

    folder = tmp_path_factory.mktemp("recognizer")
    processor = hf_ssl_speech.make_processor(["abc"])
    model = tiny_model(hf_ssl_speech.SSLWav2Vec2ForCTC, vocab_size=len(processor.tokenizer), pad_token_id=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", RECOGNIZER_FILES)
def test_a_mutated_recogniser_is_understood_or_refused_by_name(name, recognizer, tmp_path):
    folder = shutil.copytree(recognizer, tmp_path / "model")
    load_recognizer(folder)

    def read(folder):
        find_kind(folder)
        load_recognizer(folder)

    check_mutations(folder / name, read, folder)


def test_yaml_scalars_stay_as_they_were_written(tmp_path):
    path = tmp_path / "arguments.yaml"
    path.write_text("train_data: [no, 0123, 1e3, 2020-01-01]\naudio_column: on\nunits: null\nstreaming: yes\n")
    (found,) = parse_arguments([str(path)], SpeechDataArguments)
    assert found.train_data == ["no", "0123", "1e3", "2020-01-01"]
    assert (found.audio_column, found.units, found.streaming) == ("on", None, True)


def test_a_setting_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "arguments.yaml"
    path.write_text("train_data: [a]\ntrain_data: [b]\n")
    with pytest.raises(ValueError, match=r"arguments\.yaml.*train_data stands there twice"):
        parse_arguments([str(path)], SpeechDataArguments)


def test_an_arpa_file_of_any_tool_is_read_and_what_is_none_is_named(tmp_path):
    plain = b"\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\n-1\thello\n\n\\end\\\n"
    path = tmp_path / "words.arpa"
    for data in (plain, b"\xef\xbb\xbf" + plain, b"iARPA\n\n" + plain):
        path.write_bytes(data)
        assert read_words(path) == ["hello"]
    for data, fault in ((b"\x1f\x8b" + plain, "gunzip"), (plain.replace(b"hello", b"na\xefve"), "UTF-8")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=fault):
            read_words(path)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("hidden_size", 16_000, "feature_projection.projection.weight is [16000, 16] by the config, [32, 16] in the"),
        ("num_hidden_layers", 100, "encoder.layers.3.attention.k_proj.weight is not in the file"),
        ("vocab_size", 100_000, "lm_head.weight is [100000, 32] by the config, [6, 32] in the file"),
        ("num_hidden_layers", 10**9, "num_hidden_layers is 1000000000; expected 0 to 200"),
        ("attention_dropout", float("nan"), "attention_dropout is nan; expected 0.0 to 1.0"),
        ("conv_dim", [16] * 6 + [10**9], "conv_dim is 1000000000; expected 1 to 8,192"),
    ],
)
def test_a_config_of_other_sizes_than_its_weights_is_refused_before_memory_is_taken(
    field, value, named, recognizer, tmp_path, monkeypatch
):
    folder = shutil.copytree(recognizer, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(
        PreTrainedModel, "_load_pretrained_model", lambda *_: pytest.fail("memory is taken for what does not fit")
    )
    with pytest.raises(IN_WORDS) as refused:
        load_recognizer(folder)
    assert str(folder) in str(refused.value) and named in str(refused.value)
