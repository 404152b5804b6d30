"""Settings mean what is written, whatever YAML makes of it; the command line takes back what a YAML sets."""

from dataclasses import dataclass, field
from typing import get_args, get_type_hints

import pytest

from hf_ssl_speech import SpeechCTCTrainingArguments, SpeechPreTrainingArguments, files, load_speech
from hf_ssl_speech.commands.align import AlignmentArguments
from hf_ssl_speech.commands.ending import tidy_errors
from hf_ssl_speech.commands.evaluate import EvaluationArguments
from hf_ssl_speech.commands.main import run
from hf_ssl_speech.commands.ngram import NGramArguments
from hf_ssl_speech.commands.parsing import PATHS, parse_arguments
from hf_ssl_speech.commands.tune_decoder import TuningArguments
from hf_ssl_speech.file_names import expanded
from hf_ssl_speech.recipes.arguments import HubertIterationsArguments, UnitArguments
from hf_ssl_speech.recipes.inputs import (
    SpeechCTCModelArguments,
    SpeechPreTrainingDataArguments,
    SpeechTextArguments,
)

NO_PATHS = {
    "objective", "preset", "config", "lora", "attn_implementation", "train_split", "validation_split",
    "dataset_config", "audio_column", "unit_columns", "text_column", "unicode_form", "case", "punctuation",
    "keep_characters", "tags", "numbers", "language", "text_language", "by", "split", "device", "choose_by", "silence",
    "lr_scheduler_type", "lr_scheduler_kwargs", "optim", "optim_args", "optim_target_modules", "bf16",
    "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs", "torch_compile_backend", "torch_compile_mode",
    "liger_kernel_config", "include_num_input_tokens_seen", "log_level", "log_level_replica", "report_to", "run_name",
    "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "include_for_metrics", "hub_token",
    "hub_model_id", "hub_revision", "metric_for_best_model", "dataloader_multiprocessing_context", "label_names",
    "train_sampling_strategy", "length_column_name", "ddp_backend", "fsdp", "debug", "eval_strategy", "save_strategy",
    "logging_strategy", "hub_strategy", "weights", "mix_by", "noise", "voice_detector",
}  # fmt: skip


def flat(hint) -> list:
    """All types inside a type."""
    return [each for inner in get_args(hint) for each in (inner, *flat(inner))]


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
    data = read(tmp_path, yaml, "--units", "", "--unit_columns", "units", kind=SpeechPreTrainingDataArguments)
    assert (data.units, data.unit_columns) == (None, ["units"])
    with pytest.raises(ValueError, match="train_data"):
        read(tmp_path, yaml, "--train_data", "", kind=SpeechPreTrainingDataArguments)


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


@dataclass
class Numbers:
    """Arguments that are numbers, and a path."""

    updates: int = field(default=0)
    rate: float = field(default=0.0)
    most: int | None = field(default=None)
    units: list[int] = field(default_factory=list)
    stages: list[float] = field(default_factory=list)
    fields: dict | str | None = field(default=None)
    output_dir: str = field(default="runs")
    data: list[str] = field(default_factory=list)


def test_a_number_may_be_written_in_any_way_wherever_one_is_meant(tmp_path):
    yaml = "updates: 4e5\nrate: 2e-2\nmost: 1_000\nunits: [1e2, 5E+2]\nstages: [1e-1, .4, 5e-1]\nfields: {a: 2e-2}\n"
    read_numbers = read(tmp_path, yaml, kind=Numbers)
    assert (read_numbers.updates, read_numbers.rate, read_numbers.most) == (400_000, 0.02, 1_000)
    assert (read_numbers.units, read_numbers.stages) == ([100, 500], [0.1, 0.4, 0.5])
    assert read_numbers.fields == '{"a": 0.02}'
    assert read(tmp_path, "rate: 1\n", "--updates", "1e1", kind=Numbers).updates == 10
    for wrong in ("1.5", "many", "1e-2", "inf", "nan"):
        with pytest.raises(ValueError, match=f"--updates: '{wrong}' is not a whole number"):
            read(tmp_path, "rate: 1\n", "--updates", wrong, kind=Numbers)


def test_variables_and_the_home_are_replaced_in_every_path_and_must_be_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCRATCH", "/big")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("NOWHERE", raising=False)
    yaml = "output_dir: $SCRATCH/runs\ndata: [~/speech, '${SCRATCH}/*.parquet', owner/name]\n"
    paths = read(tmp_path, yaml, kind=Numbers)
    assert paths.output_dir == "/big/runs"
    assert paths.data == ["/home/me/speech", "/big/*.parquet", "owner/name"]
    for wrong in ("$NOWHERE/run", "${NOWHERE}", "~nobody-at-all/run"):
        with pytest.raises(ValueError, match=r"--output_dir.*(NOWHERE|nobody-at-all)"):
            read(tmp_path, "rate: 1\n", "--output_dir", wrong, kind=Numbers)
        with pytest.raises(ValueError, match=r"NOWHERE|nobody-at-all"):
            SpeechPreTrainingArguments(output_dir=wrong)
        with pytest.raises(ValueError, match=r"NOWHERE|nobody-at-all"):
            load_speech(wrong)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["settings.yaml"]
    (tmp_path / "$NOWHERE").mkdir()  # what is there under the very name is meant
    assert expanded("$NOWHERE") == "$NOWHERE"
    assert expanded("https://host/$NOWHERE") == "https://host/$NOWHERE"


@pytest.mark.parametrize(
    "words",
    [
        ["transcribe", "$NOWHERE/model", "a.wav"], ["transcribe", "model", "$NOWHERE/a.wav"],
        ["export", "$NOWHERE", "out"], ["export", "model", "$NOWHERE/out"], ["card", "$NOWHERE"],
        ["card", "runs", "--output_file", "$NOWHERE/card.md"], ["push", "$NOWHERE", "me/model"],
        ["make-speech", "$NOWHERE"], ["configs", "demo", "$NOWHERE/demo.yaml"], ["pretrain", "$NOWHERE/mine.yaml"],
        ["pretrain", "demo", "--model_name_or_path", "$NOWHERE"], ["finetune", "ctc_tiny", "--processor", "$NOWHERE"],
        ["hubert", "hubert_iterations_tiny", "--teacher", "$NOWHERE"], ["units", "--encoder", "$NOWHERE"],
        ["evaluate", "--models", "a", "$NOWHERE"], ["ngram", "--output_file", "$NOWHERE/lm.arpa"],
        ["tune-decoder", "--language_model", "$NOWHERE/lm.arpa"], ["align", "--model", "$NOWHERE"],
    ],
)  # fmt: skip
def test_no_command_takes_a_variable_that_is_not_set(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(ValueError, match=r"'\$NOWHERE.* names the environment variable \$NOWHERE, which is not set"):
        run(words[0], words[1:])
    assert not list(tmp_path.iterdir())


def test_of_every_text_setting_it_is_said_whether_it_is_a_path():
    kinds = (
        *(SpeechCTCModelArguments, SpeechPreTrainingDataArguments, SpeechTextArguments, SpeechCTCTrainingArguments),
        *(SpeechPreTrainingArguments, HubertIterationsArguments, UnitArguments),
        *(AlignmentArguments, EvaluationArguments, NGramArguments, TuningArguments),
    )
    named = [name for kind in kinds for name, hint in get_type_hints(kind).items() if str in (hint, *flat(hint))]
    assert set(named) - PATHS - NO_PATHS == set(), "new settings: a path belongs into PATHS, else name it here"
    assert not PATHS & NO_PATHS and set(named) >= PATHS
