"""The notebook runs, with tiny sizes."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_steps.ipynb"
MODEL = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "conv_dim": [16] * 7}
TRAINING = ["--max_steps", "2", "--use_cpu", "true", "--dataloader_num_workers", "0", "--report_to", "none"]
TINY = {
    "make-speech": ["--minutes", "3"],
    "units": ["--num_units", "5"],
    "pretrain": [*TRAINING, "--config", json.dumps(MODEL | {"num_conv_pos_embeddings": 16})],
    "finetune": [*TRAINING, "--max_skipped_share", "0.5"],
}


def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_the_notebook_goes_from_speech_to_transcripts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for cell in cells():
        if cell.startswith("!hf-ssl-speech"):
            _, command, *rest = shlex.split(cell.replace("\\\n", " "))
            words = [sys.executable, "-m", "hf_ssl_speech.commands", command, *rest, *TINY[command]]
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        elif not cell.startswith(("%pip", "from IPython")):
            exec(compile(cell, NOTEBOOK, "exec"), {})
    assert (tmp_path / "hubert" / "training.png").exists()  # which the notebook shows
    assert capsys.readouterr().out.count(" -> ") == 3
