"""The scripts as people run them: `accelerate launch`, several processes, two nodes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from train_tiny import free_port

from hf_ssl_speech import SpeechCTCTrainingArguments, SpeechPreTrainingArguments
from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.models.classes import CONFIGS as CONFIG_CLASSES
from hf_ssl_speech.recipes.arguments import (
    DistillationArguments,
    HubertIterationsArguments,
    LabelEfficiencyArguments,
)
from hf_ssl_speech.recipes.inputs import SpeechModelArguments, SpeechPreTrainingDataArguments, SpeechTextArguments

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "examples" / "configs").glob("*.yaml"))
SMALL = (
    "--config", json.dumps(dict(
        hidden_size=32, num_hidden_layers=2, intermediate_size=64, conv_dim=[16] * 7, num_conv_pos_embeddings=16,
        codevector_dim=16, proj_codevector_dim=16, num_negatives=5, num_codevectors_per_group=8,
    )),
    "--preset", "tiny", "--max_skipped_share", "0.1",
    "--batch_seconds", "4", "--max_seconds", "2", "--min_seconds", "1", "--warmup_steps", "1",
    "--logging_steps", "1", "--use_cpu", "--dataloader_num_workers", "0", "--cache_audio", "--disable_tqdm", "true",
)  # fmt: skip


@pytest.fixture(scope="module")
def audio_folder(tmp_path_factory):
    """A folder of WAV files: noise that fades, of different lengths, and one that is no audio."""
    folder = tmp_path_factory.mktemp("audio")
    generator = np.random.default_rng(0)
    for index in range(12):
        wave = generator.normal(size=16_000 + 4_000 * index) / 8
        soundfile.write(folder / f"noise-{index}.wav", wave * np.linspace(1, 0.1, len(wave)), 16_000)
    (folder / "broken.wav").write_bytes(b"this is no audio")
    return folder


def start(command, **environment):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
    return output


def launch(*launcher, folder, output, steps=3, arguments=()):
    script = [str(ROOT / "examples" / "pretrain.py"), "--train_data", str(folder), "--output_dir", str(output)]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, *script]
    return start([*command, "--max_steps", str(steps), *SMALL, *arguments])


def test_accelerate_launch_trains_names_what_it_skipped_and_leaves_a_record_and_a_picture(audio_folder, tmp_path):
    output = finish(launch("--num_processes", "1", folder=audio_folder, output=tmp_path / "run"))
    assert "1 of 13 rows skipped" in output and "broken" in output
    assert "Left out beforehand: 1 of 13 train rows. While training: none." in output
    assert "% padding" in output
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["updates"]) == ("complete", 3)
    assert "broken" in json.dumps(record["data"]["train"]["skipped"])
    assert (tmp_path / "run" / "training.png").exists()

    load = (
        "import torch, hf_ssl_speech; from transformers import AutoModel;"
        f"model = AutoModel.from_pretrained({str(tmp_path / 'run')!r});"
        "print(type(model).__name__, *model(torch.randn(1, 16000)).last_hidden_state.shape)"
    )
    assert "SSLWav2Vec2Model 1 49 32" in finish(start([sys.executable, "-c", load]))


def command_of_two_processes(folder, output, *arguments):
    data = ("--train_data", str(folder), "--output_dir", str(output), "--max_steps", "3")
    command = [sys.executable, "-m", "hf_ssl_speech.commands", "pretrain", *data, *SMALL]
    return start([*command, "--num_processes", "2", *arguments])


def test_the_command_starts_two_processes_on_one_host_that_train_one_model(audio_folder, tmp_path):
    finish(command_of_two_processes(audio_folder, tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["machine"]["processes"]) == ("complete", 2)
    assert record["command"].startswith("hf-ssl-speech pretrain --train_data")


@pytest.mark.slow
def test_a_mistake_that_two_processes_meet_is_the_last_thing_that_is_said(audio_folder, tmp_path):
    process = command_of_two_processes(audio_folder, tmp_path / "run", "--max_seconds", "20")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert output.strip().splitlines()[-1].startswith("ValueError: max_seconds is 20 but a batch holds 4 s")
    assert "Traceback" not in output and "ChildFailedError" not in output


@pytest.mark.slow
def test_two_nodes_train_one_model(audio_folder, tmp_path):
    """Two launchers with the two-node settings on this host, one CPU process each."""
    config = yaml.safe_load((ROOT / "examples" / "accelerate" / "two_nodes.yaml").read_text())
    config |= {"num_processes": 2, "main_process_port": free_port(), "mixed_precision": "no"}
    (tmp_path / "two_nodes.yaml").write_text(yaml.safe_dump(config))
    nodes = [
        launch(
            "--config_file", str(tmp_path / "two_nodes.yaml"), "--machine_rank", str(rank),
            "--main_process_ip", "127.0.0.1", folder=audio_folder, output=tmp_path / "run",
            arguments=("--ddp_backend", "gloo"),
        )
        for rank in range(2)
    ]  # fmt: skip
    for node in nodes:
        finish(node)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["machine"]["processes"]) == ("complete", 2)


@pytest.mark.usefixtures("named_corpora")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_understood(path, tmp_path):
    is_student = path.stem.startswith("distil")
    kinds = (DistillationArguments if is_student else SpeechModelArguments, SpeechPreTrainingDataArguments)
    is_ctc = path.stem.startswith(("ctc", "label_efficiency"))
    kinds += (SpeechCTCTrainingArguments,) if is_ctc else (SpeechPreTrainingArguments,)
    kinds += (HubertIterationsArguments,) if "iterations" in path.stem else ()
    kinds += (SpeechTextArguments, LabelEfficiencyArguments) if "label_efficiency" in path.stem else ()
    model, data, arguments, *_ = parse_arguments(
        [str(path), "--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false"], *kinds
    )
    assert data.train_data
    assert arguments.max_steps > arguments.warmup_steps
    if is_student:
        assert model.teacher and len(model.teacher_layers) > 1
        return
    config_class = CONFIG_CLASSES["hubert" if "hubert" in path.stem else model.objective or "wav2vec2"]
    config_class.preset(model.preset, **model.config)


@pytest.mark.usefixtures("named_corpora")
@pytest.mark.parametrize(
    ("name", "hours"),
    [("wav2vec2_base", 1.5556), ("wav2vec2_large", 2.6667), ("hubert_base", 0.7778), ("hubert_large", 2.0)]
    + [(f"ctc_{labels}", 0.4444) for labels in ("10min", "1h", "10h", "100h", "960h")],
)
def test_updates_of_published_size_have_the_published_hours(name, hours, tmp_path):
    path = ROOT / "examples" / "configs" / f"{name}.yaml"
    training = SpeechCTCTrainingArguments if "ctc" in name else SpeechPreTrainingArguments
    kinds = (SpeechModelArguments, SpeechPreTrainingDataArguments, training)
    overrides = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false"]
    _, _, arguments = parse_arguments([str(path), *overrides], *kinds)
    assert arguments.batch_seconds * arguments.batches_per_update / 3600 == pytest.approx(hours, rel=1e-3)
