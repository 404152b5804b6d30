"""What a stranger gets: the wheel in a new environment, used from an empty folder."""

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODEL = json.dumps(dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=[16] * 7,
    num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
))  # fmt: skip
SHORT = (
    "--preset", "tiny", "--config", MODEL, "--train_data", "speech", "--validation_data", "speech", "--max_steps", "2",
    "--min_seconds", "1", "--max_seconds", "12", "--batch_seconds", "24", "--eval_steps", "2", "--save_steps", "2",
    "--use_cpu", "--dataloader_num_workers", "0", "--disable_tqdm", "true",
)  # fmt: skip


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """`hf-ssl-speech` of an environment that holds the wheel; its libraries are those that the tests run with."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    left_out = shutil.ignore_patterns(".git", ".venv", "tests", "runs", "build", "*.egg-info", "__pycache__", "*cache")
    shutil.copytree(ROOT, source, ignore=left_out)  # a build writes beside what it builds
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", str(source), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *build], check=True)
    shutil.rmtree(source)

    venv.create(folder / "venv", with_pip=False)
    program = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip[:3], "--python", str(program), *pip[3:], "install", "--no-deps", str(wheel)], check=True)
    libraries = subprocess.run(
        [program, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    Path(libraries, "libraries_of_the_tests.pth").write_text("\n".join(site.getsitepackages()))
    return program.with_name("hf-ssl-speech")


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    """Runs a subcommand in a folder that is empty at first; gives what it printed."""
    folder = tmp_path_factory.mktemp("empty")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run_command(*arguments: str, fails: bool = False) -> str:
        result = subprocess.run(
            [command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert (result.returncode != 0) == fails, result.stdout[-2000:] + result.stderr[-4000:]
        return result.stderr if fails else result.stdout

    run_command.folder = folder
    return run_command


@pytest.mark.slow
def test_the_installed_command_goes_from_speech_to_a_scored_recogniser_with_a_card(run):
    pytest.importorskip("espeakng_loader", reason="espeakng-loader (the demo extra) is not installed")
    run("make-speech", "speech", "--minutes", "1", "--languages", "en", "--speakers", "10")
    run("units", "--train_data", "speech", "--validation_data", "speech", "--num_units", "10", "--output_dir", "units")
    hubert = ("--objective", "hubert", "--units", "units", "--output_dir", "hubert")
    assert "run.json and training.png are in hubert" in run("pretrain", "hubert_tiny", *SHORT, *hubert)
    start = ("--model_name_or_path", "hubert", "--output_dir", "ctc", "--freeze_transformer_updates", "0")
    assert "run.json and training.png are in ctc" in run("finetune", "ctc_tiny", *SHORT, *start)
    scored = ("--models", "ctc", "--data", "speech", "--split", "validation", "--output_dir", "scores")
    assert "ctc: WER" in run("evaluate", *scored)
    run("card", "ctc", "--license", "apache-2.0")
    card = (run.folder / "ctc" / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "hf-ssl-speech finetune ctc_tiny" in card
    assert "vocab.json" in run("export", "ctc", "stock")
    assert json.loads((run.folder / "stock" / "config.json").read_text())["model_type"] == "hubert"


@pytest.mark.slow
def test_the_installed_command_brings_its_configurations(run):
    assert "eight_gpus" in run("configs")
    run("configs", "hubert_tiny", "mine.yaml")
    assert (run.folder / "mine.yaml").read_text() == (ROOT / "examples/configs/hubert_tiny.yaml").read_text()
    assert "Did you mean hubert_tiny?" in run("pretrain", "hubert_tyni", fails=True)
