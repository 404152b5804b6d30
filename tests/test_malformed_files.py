"""Whatever stands in a file that is read, it is understood or refused in a sentence that names the file."""

import json
import os

import pytest
from torture.inputs import AUDIO, FILES, IN_WORDS, RECOGNIZER, save_recognizer, torment
from transformers import PreTrainedModel

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.recipes.inputs import SpeechDataArguments
from hf_ssl_speech.recognition.language_model import read_words
from hf_ssl_speech.recognition.transcription import load_recognizer

MUTATIONS = int(os.environ.get("MUTATIONS", "40"))


@pytest.mark.parametrize("name", [*FILES, *RECOGNIZER, *AUDIO])
def test_a_mutated_file_is_understood_or_refused_by_name(name, tmp_path):
    trial = torment(tmp_path, name, (FILES | RECOGNIZER | AUDIO)[name], MUTATIONS)
    assert trial.failures == []


def test_yaml_scalars_stay_as_they_were_written(tmp_path):
    path = tmp_path / "arguments.yaml"
    path.write_text("train_data: [no, 0123, 1e3, 2020-01-01]\naudio_column: on\ndataset_config: null\nstreaming: yes\n")
    (found,) = parse_arguments([str(path)], SpeechDataArguments)
    assert found.train_data == ["no", "0123", "1e3", "2020-01-01"]
    assert (found.audio_column, found.dataset_config, found.streaming) == ("on", None, True)


def test_a_setting_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "arguments.yaml"
    path.write_text("train_data: [a]\ntrain_data: [b]\n")
    with pytest.raises(ValueError, match=r"arguments\.yaml.*train_data is given twice"):
        parse_arguments([str(path)], SpeechDataArguments)


def test_an_arpa_file_of_any_tool_is_read_and_what_is_none_is_named(tmp_path):
    plain = b"\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\n-1\thello\n\n\\end\\\n"
    path = tmp_path / "words.arpa"
    for data in (plain, b"\xef\xbb\xbf" + plain, b"iARPA\n\n" + plain):
        path.write_bytes(data)
        assert read_words(path) == ["hello"]
    for data, fault in ((b"\x1f\x8b" + plain, "compressed file"), (plain.replace(b"hello", b"na\xefve"), "UTF-8")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=fault):
            read_words(path)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("hidden_size", 16_000, "feature_projection.projection.weight is [16000, 16] by the config, [32, 16] in the"),
        ("num_hidden_layers", 100, "encoder.layers.3 is not in the file"),
        ("vocab_size", 100_000, "lm_head.weight is [100000, 32] by the config, [6, 32] in the file"),
        ("num_hidden_layers", 10**9, "num_hidden_layers is 1000000000; expected 0 to 200"),
        ("attention_dropout", float("nan"), "attention_dropout is nan; expected 0.0 to 1.0"),
        ("conv_dim", [16] * 6 + [10**9], "conv_dim is 1000000000; expected 1 to 8,192"),
    ],
)
def test_a_config_of_other_sizes_than_its_weights_is_refused_before_memory_is_taken(
    field, value, named, tmp_path, monkeypatch
):
    folder = tmp_path / "model"
    save_recognizer(folder)
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(
        PreTrainedModel, "_load_pretrained_model", lambda *_: pytest.fail("memory is taken for what does not fit")
    )
    with pytest.raises(IN_WORDS) as refused:
        load_recognizer(folder)
    assert str(folder) in str(refused.value) and named in str(refused.value)
