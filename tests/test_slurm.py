"""The script for SLURM, with stand-ins for what SLURM gives: `srun`, `scontrol` and its variables."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_launch import SMALL
from train_tiny import free_port

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "accelerate" / "slurm.sh"
# Starts a task on each of the machines, which are all this one, and fails if one of them does.
SRUN = """\
#!/bin/bash
while [[ $1 == --* ]]; do shift; done
tasks=()
for ((node = 0; node < SLURM_NNODES; node++)); do SLURM_NODEID=$node "$@" & tasks+=($!); done
for task in "${tasks[@]}"; do wait "$task" || exit 1; done
"""
# It names more machines than a pipe holds, as for a job on thousands: whoever closes the pipe early ends it.
SCONTROL = """\
#!/bin/bash
[ "$*" = 'show hostnames node[1-2]' ] || exit 1
echo 127.0.0.1
seq -f 'node%.0f' 2 20000
"""


def write(path: Path, text: str):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def submit(tmp_path):
    """`submit(*arguments, accelerate=SCRIPT)` runs the script as a job on two machines with a GPU each."""
    stands_in = tmp_path / "bin"
    stands_in.mkdir()
    write(stands_in / "srun", SRUN)
    write(stands_in / "scontrol", SCONTROL)

    def run(*arguments: str, accelerate: str, **environment: str) -> subprocess.CompletedProcess:
        write(stands_in / "accelerate", accelerate)
        job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "1"}
        path = {"PATH": f"{stands_in}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            ["bash", str(SCRIPT), *arguments], env=os.environ | job | path | environment, text=True,
            capture_output=True, timeout=500, check=False,
        )  # fmt: skip

    return run


def test_each_machine_gets_its_rank_and_all_get_the_same_address_port_and_words(submit, tmp_path):
    told = f'#!/bin/bash\nprintf "%s\\n" "$@" > "{tmp_path}/$SLURM_NODEID"\n'
    config = '{"hidden_size": 32}'
    job = submit("pretrain", "demo", "--config", config, accelerate=told, SLURM_GPUS_ON_NODE="8")
    assert job.returncode == 0, job.stderr
    for node in range(2):
        words = (tmp_path / str(node)).read_text().splitlines()
        given = dict(itertools.pairwise(words))  # each option with its value
        assert words[:2] == ["launch", "--multi_gpu"]
        assert (given["--num_machines"], given["--num_processes"], given["--machine_rank"]) == ("2", "16", str(node))
        assert (given["--main_process_ip"], given["--main_process_port"]) == ("127.0.0.1", "10007")
        assert words[words.index("--module") :] == [
            "--module", "hf_ssl_speech.commands", "pretrain", "demo", "--config", config,
        ]  # fmt: skip


def test_a_task_that_fails_fails_the_job_and_a_job_without_a_command_is_told_so(submit):
    fails = "#!/bin/bash\n[ $SLURM_NODEID = 0 ]\n"
    assert submit("pretrain", "demo", accelerate=fails).returncode != 0
    empty = submit(accelerate=fails)
    assert empty.returncode == 2 and "Give a command" in empty.stderr
    outside = submit("pretrain", accelerate=fails, SLURM_JOB_NODELIST="")
    assert outside.returncode != 0 and "this script is for sbatch" in outside.stderr


@pytest.mark.slow  # it starts two processes
def test_two_machines_train_one_model(submit, tmp_path):
    (tmp_path / "audio").mkdir()
    for index in range(6):
        noise = np.random.default_rng(index).normal(size=16_000 + 4_000 * index) / 8
        soundfile.write(tmp_path / "audio" / f"{index}.wav", noise, 16_000)
    real = f'#!/bin/bash\nexec {sys.executable} -m accelerate.commands.accelerate_cli "$@"\n'
    job = submit(
        "pretrain", "--train_data", str(tmp_path / "audio"), "--output_dir", str(tmp_path / "run"), "--max_steps", "2",
        *SMALL, "--ddp_backend", "gloo", accelerate=real, PORT=str(free_port()), PRECISION="no",
    )  # fmt: skip
    assert job.returncode == 0, job.stderr[-4000:]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["machine"]["processes"]) == ("complete", 2)
