"""The command `hf-ssl-speech`: its help, its errors, its configurations, and several processes."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torture.inputs import save_recognizer

from hf_ssl_speech.commands import main as program
from hf_ssl_speech.commands import named_configs
from hf_ssl_speech.commands.configs import listing
from hf_ssl_speech.commands.launching import take_launch_options
from hf_ssl_speech.commands.main import COMMANDS, main, overview, run
from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.recipes.arguments import (
    DistillationArguments,
    HubertIterationsArguments,
    LabelEfficiencyArguments,
)
from hf_ssl_speech.recipes.inputs import (
    SpeechCTCModelArguments,
    SpeechDataArguments,
    SpeechModelArguments,
    SpeechPreTrainingDataArguments,
    SpeechTextArguments,
)
from hf_ssl_speech.training.arguments import SpeechCTCTrainingArguments, SpeechPreTrainingArguments

ROOT = Path(__file__).parents[1]
PRETRAIN_KINDS = (SpeechModelArguments, SpeechPreTrainingDataArguments, SpeechPreTrainingArguments)
CTC_KINDS = (SpeechCTCModelArguments, SpeechDataArguments, SpeechTextArguments, SpeechCTCTrainingArguments)
OF_DATACLASSES = {
    "pretrain", "units", "features", "hubert", "distil", "finetune", "label-efficiency", "probe", "evaluate", "ngram",
    "tune-decoder", "align",
}  # fmt: skip


def help_of(name, capsys, option="--help") -> str:
    with pytest.raises(SystemExit) as end:
        run(name, [option])
    assert not end.value.code
    return capsys.readouterr().out


def in_a_process(code: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_with_help_that_shows_how_it_is_called(name, capsys):
    assert f"hf-ssl-speech {name}" in help_of(name, capsys)
    assert COMMANDS[name] in overview()


@pytest.mark.parametrize("name", sorted(OF_DATACLASSES))
@pytest.mark.parametrize("option", ["--help", "--help-all"])
def test_every_argument_has_a_description(name, option, capsys):
    lines = [*help_of(name, capsys, option).splitlines(), ""]
    bare = [place for place, line in enumerate(lines) if re.fullmatch(r"  --\S+ \S+( \.\.\.)?", line)]
    assert [lines[place] for place in bare if not lines[place + 1].startswith(" " * 8)] == []
    assert not [line for line in lines if re.match(r"  --\S+ \S+ +\(default", line)] and "%%" not in "".join(lines)
    assert sum(line.startswith("  --") for line in lines) > 5


def test_the_help_of_a_run_begins_with_what_people_set_and_leaves_the_rest_to_help_all(capsys):
    short, full = help_of("finetune", capsys), help_of("finetune", capsys, "--help-all")
    titles = [line.partition(" (")[0].rstrip(":") for line in short.splitlines() if re.fullmatch(r"\w.*:", line)]
    given = ["Which model is fine-tuned", "Which audio is used", "How transcripts are normalised and spelt"]
    assert titles == [*given, "Recipe", "Hardware", "Output, logs and checks", "Several devices"]
    assert re.search(r"--learning_rate NUMBER .*\n? *\(default:\s+3e-05\)", short)
    for rare in ("--adam_beta1", "--hub_token", "--deepspeed"):
        assert rare in full and rare not in short


@pytest.mark.parametrize("name", ["--help", "pretrain", "hubert", "probe", "evaluate", "push"])
def test_help_loads_no_more_than_it_needs(name):
    """Datasets, models and scientific libraries would take seconds more; torch is there for Trainer's settings only."""
    heavy = ["datasets", "pandas", "peft", "scipy", "sklearn", "torchaudio", "matplotlib"]
    heavy += ["transformers.modeling_utils"]
    heavy += ["torch"] if name in ("--help", "evaluate", "push") else []
    code = f"""
import sys
from hf_ssl_speech.commands.main import main
try:
    main({[name] if name == "--help" else [name, "--help"]!r})
except SystemExit:
    pass
print("LOADED", [module for module in {heavy!r} if module in sys.modules])
"""
    result = in_a_process(code)
    assert result.stdout.splitlines()[-1] == "LOADED []", result.stdout + result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrian"], "There is no command pretrian. Did you mean pretrain?"),
        (["pretrain", "--learning_rat", "1"], "There is no argument --learning_rat. Did you mean --learning_rate?"),
        (["pretrain", "hubert_tyni"], "There is no configuration hubert_tyni. Did you mean hubert_tiny?"),
        (["pretrain", "mine.yaml"], "There is no configuration mine.yaml."),
        (["pretrain", "--num_processes", "none"], "--num_processes is none: give a whole number, 1 or more."),
        (["card", "runs/x", "--licence", "mit"], "There is no argument --licence. Did you mean --license?"),
        (["finetune", "--units", "runs/units"], "There is no argument --units."),
        (["pretrain", "--lora", "{}"], "There is no argument --lora."),
        (["card"], "The following arguments are required: folder"),
        (["align", "--limit", "few"], "Argument --limit: 'few' is not a whole number"),
    ],
)
def test_a_mistake_on_the_command_line_ends_it_with_one_sentence(words, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hf-ssl-speech"])
    with pytest.raises(SystemExit) as end:
        main(words)
    assert message in end.value.code and len(end.value.code.strip().splitlines()) == 1


def test_an_error_stands_alone_on_standard_error():
    result = in_a_process("from hf_ssl_speech.commands.main import main; main(['card', '--folder'])")
    assert result.returncode == 1 and result.stdout == ""
    message = "ValueError: There is no argument --folder. `--help` lists the arguments."
    assert result.stderr.strip().splitlines() == [message]


def test_a_configuration_is_taken_by_its_name_and_listed_with_its_command():
    for name, path in named_configs.configs().items():
        assert named_configs.config(name) == path == named_configs.config(str(path))
        assert f"  {name} " in listing()
        assert named_configs.summary(path).endswith(".") and len(named_configs.summary(path)) > 30
    assert set(named_configs.accelerate_configs()) == {"one_gpu", "eight_gpus", "eight_gpus_sharded", "two_nodes"}


def test_a_copy_of_a_configuration_overwrites_nothing(tmp_path, capsys):
    run("configs", ["hubert_tiny", str(tmp_path / "mine.yaml")])
    assert (tmp_path / "mine.yaml").read_text() == named_configs.config("hubert_tiny").read_text()
    with pytest.raises(ValueError, match="exists already"):
        run("configs", ["demo", str(tmp_path / "mine.yaml")])
    capsys.readouterr()
    run("configs", ["demo"])
    assert capsys.readouterr().out == named_configs.config("demo").read_text()


def test_what_concerns_several_processes_is_taken_from_the_arguments():
    rest = ["hubert_tiny", "--max_steps", "3"]
    assert take_launch_options([*rest, "--num_processes", "2"]) == ({"num_processes": "2"}, rest)
    assert take_launch_options(["--accelerate-config=eight_gpus", *rest]) == ({"accelerate_config": "eight_gpus"}, rest)
    assert take_launch_options([*rest, "--num_processes", "1"]) == ({}, rest)
    assert take_launch_options([*rest, "--num_processes", "2", "--help"]) == ({}, [*rest, "--help"])


WAIT_POLICY = """
import os, sys
from hf_ssl_speech.commands import main
assert "torch" not in sys.modules
main.run = lambda name, argv: print(os.environ["OMP_WAIT_POLICY"])
main.start("pretrain", [])
"""


def test_threads_wait_without_taking_the_cores_unless_the_user_has_said_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert in_a_process(WAIT_POLICY).stdout.strip() == "PASSIVE"
    assert in_a_process(WAIT_POLICY, OMP_WAIT_POLICY="ACTIVE").stdout.strip() == "ACTIVE"


PAGES_TAKEN_ANEW = """
import resource
import numpy as np
from hf_ssl_speech.allocation import keep_memory
print(keep_memory())
for step in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)  # 128 MB, 32,768 pages of 4 kB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no such settings")
def test_memory_stays_with_the_process_for_the_next_step_unless_the_user_has_said_otherwise(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    done, taken = in_a_process(PAGES_TAKEN_ANEW).stdout.split()
    assert done == "True" and int(taken) < 50
    # As NumPy asks for huge pages, each of which is taken at once, pages are fewer than 32,768.
    done, taken = in_a_process(PAGES_TAKEN_ANEW, GLIBC_TUNABLES="glibc.malloc.mmap_threshold=100000").stdout.split()
    assert done == "False" and int(taken) >= 50


@pytest.mark.parametrize(("name", "kept"), [("transcribe", "128"), ("finetune", "128"), ("pretrain", None)])
def test_kernels_of_lengths_that_do_not_come_again_are_not_kept(name, kept, monkeypatch):
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        monkeypatch.setenv(variable, "")  # what the test sets is taken back
        monkeypatch.delenv(variable)
    monkeypatch.setattr(program, "run", lambda name, argv: None)
    monkeypatch.setattr(program, "keep_memory", lambda: None)
    program.start(name, [])
    assert os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY") == os.environ.get("LRU_CACHE_CAPACITY") == kept


def test_the_package_is_imported_in_an_instant_and_its_models_are_known_all_the_same():
    code = """
import sys, hf_ssl_speech
assert not {"torch", "transformers"} & set(sys.modules)
from transformers import AutoConfig, AutoModel
config = AutoConfig.for_model("ssl-hubert", hidden_size=32, num_attention_heads=4, num_hidden_layers=1)
print(type(AutoModel.from_config(config)).__name__)
"""
    result = in_a_process(code)
    assert result.stdout.split() == ["SSLHubertModel"], result.stderr


def test_transcribe_writes_a_line_for_each_audio_and_names_what_it_can_not_read(tmp_path, capsys):
    torch.manual_seed(0)
    save_recognizer(tmp_path / "recogniser")
    generator = np.random.default_rng(0)
    (tmp_path / "audio").mkdir()
    for name in ("one", "two"):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", generator.normal(scale=0.1, size=32_000), 16_000)
    (tmp_path / "audio" / "three.flac").write_bytes(b"no audio")
    main(["transcribe", str(tmp_path / "recogniser"), str(tmp_path / "audio")])
    heard = capsys.readouterr()
    assert [line.split("\t")[0] for line in heard.out.splitlines()] == ["one", "two"]
    assert "1 of 3 rows skipped" in heard.err and "three" in heard.err


def test_the_commands_of_a_models_folder_make_its_card_and_its_stock_form(tmp_path, capsys):
    torch.manual_seed(0)
    save_recognizer(tmp_path / "ctc")
    for licence in ("mit", "apache-2.0"):  # a card that a program made is made anew
        main(["card", str(tmp_path / "ctc"), "--license", licence])
        assert f"license: {licence}" in (tmp_path / "ctc" / "README.md").read_text()
    (tmp_path / "mine.md").write_text("# My model\n")
    with pytest.raises(SystemExit, match="was written by hand and is left as it is"):
        main(["card", str(tmp_path / "ctc"), "--output_file", str(tmp_path / "mine.md")])
    main(["export", str(tmp_path / "ctc"), str(tmp_path / "stock")])
    assert "config.json" in capsys.readouterr().out and (tmp_path / "stock" / "model.safetensors").exists()


OF_A_RUN = {
    "pretrain": PRETRAIN_KINDS,
    "distil": (DistillationArguments, SpeechDataArguments, SpeechPreTrainingArguments),
    "hubert": (*PRETRAIN_KINDS, HubertIterationsArguments),
    "finetune": CTC_KINDS,
    "label-efficiency": (*CTC_KINDS, LabelEfficiencyArguments),
}


@pytest.mark.parametrize("name", sorted(set(named_configs.configs()) - {"demo"}))
def test_a_configuration_takes_other_data_and_nothing_else(name):
    """What it says of its own splits and validation data does not hold for other data, unless it is asked for."""
    kinds = OF_A_RUN[named_configs.command_of(name)]
    data = parse_arguments([name, "--train-data", "my_audio"], *kinds)[1]
    assert data.train_data == ["my_audio"] and data.train_split == "train" and data.dataset_config is None
    assert data.validation_data is None and data.validation_split is None
    assert (data.validation_share > 0) is not data.streaming
    asked = ["--train_data=my_audio", "--validation_data", "other", "--validation_split", "dev"]
    data = parse_arguments([name, *asked], *kinds)[1]
    assert data.validation_data == ["other"] and data.validation_split == "dev"


def test_a_file_of_the_user_means_what_it_says(tmp_path):
    (tmp_path / "mine.yaml").write_text("train_data: [a]\nvalidation_data: [b]\noutput_dir: c\n")
    data = parse_arguments([str(tmp_path / "mine.yaml"), "--train_data", "d"], *PRETRAIN_KINDS)[1]
    assert data.train_data == ["d"] and data.validation_data == ["b"]


def test_a_module_can_be_imported_first_and_alone():
    """Each of these reaches the module of Auto classes while it is only half imported itself."""
    code = """
import importlib, os, datasets, torch, transformers.modeling_utils

for module in ("models.encoder", "hub.onnx_export", "training.pretrainer", "recognition.decoding"):
    if not os.fork():
        importlib.import_module(f"hf_ssl_speech.{module}")
        from transformers import AutoConfig, AutoModelForCTC

        assert type(AutoConfig.for_model("ssl-wav2vec2")) in AutoModelForCTC._model_mapping
        os._exit(0)
    _, code = os.wait()
    assert not code, module
"""
    result = in_a_process(code)
    assert not result.returncode, result.stderr


def test_help_and_errors_name_the_command_and_one_spelling(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["hf-ssl-speech", "align"])
    assert help_of("align", capsys).startswith("usage: hf-ssl-speech align [CONFIG]")
    with pytest.raises(SystemExit, match=r"required: --model, --data, --output_dir\. "):
        main(["align"])


@pytest.mark.parametrize("name", ["/no/such", "./such", "a/b/c", "runs/such", "such"])
def test_a_folder_that_is_not_there_is_told_without_asking_the_hub(name, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", pytest.fail)
    words = ["--data", "speech", "--output_dir", "out"]
    for command in (["transcribe", name, "x.wav"], ["evaluate", "--models", name, *words]):
        with pytest.raises(SystemExit, match=f"There is no folder {name}"):
            main(command)


def test_a_run_without_a_model_names_its_newest_checkpoint(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoint-5").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"holds no model, as it has no config\.json\."):
        main(["transcribe", str(run), "x.wav"])
    (run / "checkpoint-5" / "config.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"no config\.json; .*checkpoint-5 does\."):
        main(["transcribe", str(run), "x.wav"])
