"""Settings mean what is written, whatever YAML makes of it; the command line takes back what a YAML sets."""

from dataclasses import dataclass, field

import pytest

from hf_ssl_speech import files
from hf_ssl_speech.commands.ending import tidy_errors
from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.training.arguments import SpeechDataArguments, SpeechTextArguments


@dataclass
class Texts:
    """Arguments of each kind."""

    language: str | None = field(default=None)
    marks: str = field(default="'")
    by: list[str] = field(default_factory=list)
    limit: int | None = field(default=None)


def read(tmp_path, yaml: str, *tokens: str, kind: type = Texts):
    (tmp_path / "settings.yaml").write_text(yaml, encoding="utf-8")
    return parse_arguments([str(tmp_path / "settings.yaml"), *tokens], kind)[0]


@pytest.mark.parametrize(
    "written", ["no", "yes", "on", "0123", "1e3", "1_000", "12:30", "2024-01-01", "0x1f", ".5", "="]
)
def test_a_text_is_what_is_written_whatever_yaml_makes_of_it(tmp_path, written):
    assert read(tmp_path, f"language: {written}\n").language == written
    assert read(tmp_path, f"by: [{written}, other]\n").by == [written, "other"]


def test_a_text_may_be_empty_null_or_begin_with_a_dash(tmp_path):
    assert read(tmp_path, "marks: ''\n").marks == ""
    assert read(tmp_path, "language: null\n").language is None
    assert read(tmp_path, 'marks: "--\'"\n').marks == "--'"


def test_an_empty_value_takes_back_what_the_yaml_sets(tmp_path):
    yaml = "language: tr\nby: [a, b]\nlimit: 3\nmarks: '!'\n"
    assert read(tmp_path, yaml) == Texts("tr", "!", ["a", "b"], 3)
    assert read(tmp_path, yaml, "--language", "", "--by", "", "--limit=", "--marks", "") == Texts(None, "", [], None)
    assert read(tmp_path, yaml, "--by", "", "--by", "c").by == ["c"]


def test_units_give_way_to_columns(tmp_path):
    yaml = "train_data: [a]\nunits: [runs/units]\n"
    data = read(tmp_path, yaml, "--units", "", "--unit_columns", "units", kind=SpeechDataArguments)
    assert (data.units, data.unit_columns) == (None, ["units"])
    with pytest.raises(ValueError, match="train_data"):
        read(tmp_path, yaml, "--train_data", "", kind=SpeechDataArguments)


def test_text_settings_come_from_yaml_too(tmp_path):
    text = read(tmp_path, "language: no\nfinal_delimiter: false\ntags: keep\n", kind=SpeechTextArguments)
    assert (text.language, text.final_delimiter, text.tags) == ("no", False, "keep")
    assert SpeechTextArguments().final_delimiter is None


def test_a_cache_that_can_not_be_written_is_named_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(files, "HF_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(SystemExit) as ended, tidy_errors():
        raise FileNotFoundError(2, "No such file or directory", "/somewhere")
    message = str(ended.value).strip()
    assert message.startswith(f"FileNotFoundError: HF_HOME is {tmp_path}/file/home, which can't be written (")
    assert "\n" not in message
    monkeypatch.setattr(files, "HF_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match="/somewhere"), tidy_errors():
        raise FileNotFoundError(2, "No such file or directory", "/somewhere")
