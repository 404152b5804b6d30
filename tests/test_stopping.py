"""Runs that end before their end: asked by SIGTERM, or left by one of their processes."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from test_exactness import largest_difference, save_rows  # noqa: F401
from test_launch import ROOT, SMALL, audio_folder, finish, launch, start  # noqa: F401
from train_tiny import free_port
from transformers import TrainingArguments

from hf_ssl_speech import SpeechPreTrainingArguments
from hf_ssl_speech.records import read_record
from hf_ssl_speech.training.stopping import ServeWhileTraining, end_stopped


def launch_two(folder, output, steps, *arguments):
    """Two processes under one launcher, each with two loader workers."""
    launcher = ("--multi_gpu", "--num_processes", "2", "--main_process_port", str(free_port()))
    more = ["--logging_steps", "5", "--dataloader_num_workers", "2", *arguments]
    return launch(*launcher, folder=folder, output=output, steps=steps, arguments=more)


def run_alone(folder, output, *arguments):
    """The script without a launcher, for longer than any test waits."""
    script = [str(ROOT / "examples" / "pretrain.py"), "--train_data", str(folder), "--output_dir", str(output)]
    return start([sys.executable, *script, *SMALL, "--max_steps", "100000", *arguments])


def wait_for_a_log(process) -> str:
    """The output up to the first line of training."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "'loss'" in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


@pytest.mark.slow
def test_a_run_of_two_processes_that_gets_sigterm_saves_a_checkpoint_and_goes_on_to_the_same_weights(
    audio_folder,  # noqa: F811
    tmp_path,
):
    finish(launch_two(audio_folder, tmp_path / "whole", 300))
    process = launch_two(audio_folder, tmp_path / "run", 300)
    wait_for_a_log(process)
    process.terminate()
    output, _ = process.communicate(timeout=100)
    assert "Stopped by SIGTERM after update" in output
    assert process.returncode != 0
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert "Going on from" in finish(launch_two(audio_folder, tmp_path / "run", 300))
    assert largest_difference(tmp_path / "whole", tmp_path / "run") == 0.0


def test_a_script_that_gets_sigterm_ends_with_143(audio_folder, tmp_path):  # noqa: F811
    process = run_alone(audio_folder, tmp_path)
    wait_for_a_log(process)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output[-2000:]
    assert "the same command continues" in output


@pytest.mark.slow
def test_a_process_that_is_stopped_ends_the_run_within_the_time_out_by_its_name(audio_folder, tmp_path):  # noqa: F811
    process = launch_two(audio_folder, tmp_path / "run", 100_000, "--ddp_timeout", "5")
    wait_for_a_log(process)
    second = psutil.Process(process.pid).children()[1]
    second.suspend()
    since = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - since < 5 + 3 + 10  # the time-out, the roll call, and a slow machine's end of a launcher
    assert process.returncode != 0
    assert f"process 1 (pid {second.pid} on " in output and "did not answer within 5 s" in output, output[-3000:]
    record = read_record(tmp_path / "run")
    assert record["status"] == "failed" and f"process 1 (pid {second.pid} on " in record["cause"]


@pytest.mark.slow
def test_a_run_whose_first_process_is_stopped_leaves_the_cause_in_its_record(audio_folder, tmp_path):  # noqa: F811
    process = launch_two(audio_folder, tmp_path / "run", 100_000, "--ddp_timeout", "5")
    wait_for_a_log(process)
    first = psutil.Process(process.pid).children()[0]
    first.suspend()
    process.communicate(timeout=60)
    record = read_record(tmp_path / "run")
    assert record["status"] == "failed" and f"process 0 (pid {first.pid} on " in record["cause"]


@pytest.mark.slow
def test_a_loader_worker_that_is_stopped_ends_the_run_by_its_name(audio_folder, tmp_path):  # noqa: F811
    process = run_alone(audio_folder, tmp_path, "--dataloader_num_workers", "2", "--ddp_timeout", "5")
    wait_for_a_log(process)
    worker = psutil.Process(process.pid).children()[0]
    worker.suspend()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"Process 0 gets no batches any more. Its loader worker pid {worker.pid} is stopped." in output
    record = read_record(tmp_path)  # written by the watch, or by the loop that finds the worker ended
    assert record["status"] == "failed"
    assert "Process 0 gets no batches any more" in record["cause"] and str(worker.pid) in record["cause"]


def test_only_stopped_processes_are_ended_and_named():
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    try:
        psutil.Process(sleepers[0].pid).suspend()
        os.waitpid(sleepers[0].pid, os.WUNTRACED)  # the signal has arrived
        assert end_stopped([sleeper.pid for sleeper in sleepers]) == [f"pid {sleepers[0].pid}"]
        assert sleepers[0].wait(timeout=10) == -signal.SIGKILL
        assert sleepers[1].poll() is None
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


def test_loader_workers_serve_while_their_process_trains_and_end_afterwards():
    serving = ServeWhileTraining()
    worker = os.fork()
    if worker == 0:
        serving(0)
        while True:
            time.sleep(0.01)
    try:
        with serving.while_training():
            time.sleep(0.2)  # the worker has its handler
            os.kill(worker, signal.SIGTERM)
            time.sleep(0.2)
            assert os.waitpid(worker, os.WNOHANG) == (0, 0)
        os.kill(worker, signal.SIGTERM)
        assert os.waitpid(worker, 0) == (worker, 0)
        worker = None
    finally:
        if worker:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)


def test_several_gpus_without_a_launcher_are_refused_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(TrainingArguments, "n_gpu", 4)
    with pytest.raises(ValueError, match=r"One process sees 4 GPUs.*accelerate launch --num_processes 4"):
        SpeechPreTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
