"""How a run ends early: on a signal, with a checkpoint; or when a process is lost, with an error that names it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from transformers import TrainerCallback

from hf_ssl_speech.data.processes import in_several_processes, rank_and_size
from hf_ssl_speech.training.outcomes import LostProcess

ANSWER_SECONDS = 3.0
GOES_ON = "Started again, the run goes on from its last checkpoint."


class StopOnSignal(TrainerCallback):
    """At SIGTERM, as schedulers send it before they end a job, a run saves a checkpoint after its update and stops.

    The processes of a run hear of the signal at different updates, or only one of them does: at the end of each update
    they tell each other, from host to host, so that no device waits. A second signal ends the process at once.
    """

    def __init__(self):
        self.asked = False
        self.stopping = False
        self.group: dist.ProcessGroup | None = None
        self.former_handler = None

    def on_train_begin(self, args, state, control, **kwargs):
        if in_several_processes():
            self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=args.ddp_timeout))
        if threading.current_thread() is threading.main_thread():
            self.former_handler = signal.signal(signal.SIGTERM, self.ask)

    def ask(self, signal_number, frame):
        """Notes the signal; the next one is handled as it was before training."""
        self.asked = True
        signal.signal(signal.SIGTERM, self.former_handler)

    def on_step_end(self, args, state, control, **kwargs):
        if self.agree() and not self.stopping and state.global_step < state.max_steps:
            self.stopping = control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.stopping:  # inside an epoch: what is due at its end waits until the run goes on
            control.should_log = control.should_evaluate = control.should_save = False

    def on_train_end(self, args, state, control, **kwargs):
        if self.former_handler is not None:
            signal.signal(signal.SIGTERM, self.former_handler)

    def agree(self) -> bool:
        """Whether any process has been asked to stop."""
        if self.group is None:
            return self.asked
        asked = torch.tensor(self.asked, dtype=torch.int32)
        dist.all_reduce(asked, dist.ReduceOp.MAX, group=self.group)
        return bool(asked)


class ServeWhileTraining:
    """Keeps loader workers alive: after a SIGTERM to all processes of a job, the current update still gets its batches.

    Launchers and schedulers send the signal to whole process groups. While `training` is set, workers ignore it.
    """

    def __init__(self):
        self.training = torch.multiprocessing.Value("b", False)

    def __call__(self, worker_id: int):
        """In a worker, at its start."""
        self.parent = os.getppid()
        signal.signal(signal.SIGTERM, self.end_unless_training)

    def end_unless_training(self, signal_number, frame):
        """What SIGTERM does to a worker."""
        if not self.training.value or os.getppid() != self.parent:
            os._exit(0)

    @contextlib.contextmanager
    def while_training(self) -> Iterator[None]:
        """In the trainer's process, around a training."""
        self.training.value = True
        try:
            yield
        finally:
            self.training.value = False


class RollCall(TrainerCallback):
    """Ends a run whose processes and loader workers do not all answer any more, and names those that don't.

    If a process is stopped or hangs, the others wait in their next exchange, which has no time-out on some backends; if
    a loader worker is stopped while it hands over a batch, its process waits beyond the DataLoader's time-out. So a
    watch of our own runs from each batch, log, evaluation and checkpoint to the next.

    Args:
        timeout: Seconds that each of them may take, the exchange included. A run of one process may take longer if
            none of its workers is stopped.
        on_loss: Called with the error before the watch ends this process.
    """

    def __init__(self, timeout: float, on_loss: Callable[[LostProcess], None]):
        self.timeout = timeout
        self.on_loss = on_loss
        self.addresses = [(socket.gethostname(), os.getpid())] * rank_and_size()[1]
        if in_several_processes():
            dist.all_gather_object(self.addresses, self.addresses[0])
        self.watch: threading.Timer | None = None

    def on_step_begin(self, args, state, control, **kwargs):
        self.start_watch()

    on_substep_end = on_step_end = on_prediction_step = on_evaluate = on_save = on_step_begin

    def on_train_end(self, args, state, control, **kwargs):
        self.end_watch()

    def start_watch(self):
        """Starts the time of the next batch, evaluation or checkpoint."""
        self.end_watch()
        self.watch = threading.Timer(self.timeout, self.give_up)
        self.watch.daemon = True
        self.watch.start()

    def end_watch(self):
        """Ends the time that was started."""
        if self.watch is not None:
            self.watch.cancel()

    def give_up(self):
        """Ends this process if its main thread waits in vain, and is not merely slow."""
        stopped = end_stopped([child.pid for child in psutil.Process().children()])
        if stopped:
            error = self.no_batches(f"Its loader worker {', '.join(stopped)} is stopped.")
        elif in_several_processes():
            error = self.lost()
        else:
            self.start_watch()
            return
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        try:
            self.on_loss(error)
        except Exception:  # the process ends all the same
            traceback.print_exc()
        os._exit(1)

    def no_batches(self, cause: str) -> LostProcess:
        """The error of a process whose loader workers are gone."""
        return LostProcess(f"Process {rank_and_size()[0]} gets no batches any more. {cause} {GOES_ON}")

    def lost(self, message: str = "") -> LostProcess:
        """The error that names the processes that do not answer; those that are stopped here are ended."""
        missing = missing_processes()
        named = [f"process {rank} (pid {self.addresses[rank][1]} on {self.addresses[rank][0]})" for rank in missing]
        here, _ = self.addresses[rank_and_size()[0]]
        end_stopped([self.addresses[rank][1] for rank in missing if self.addresses[rank][0] == here])
        who = " and ".join(named) or "A process"
        said = f"{who} did not answer within {self.timeout:g} s, or has died. {GOES_ON} {message}".strip()
        return LostProcess(said, missing)

    @contextlib.contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Around a training: if it fails because a process or a loader worker is gone, the error names it.

        Raises:
            LostProcess: Instead of the error that the loss has led to.
        """
        try:
            yield
        except RuntimeError as error:
            self.end_watch()
            message = str(error)
            if "DataLoader" in message:
                raise self.no_batches(message) from error
            if in_several_processes() and (isinstance(error, dist.DistError) or "gloo" in message.lower()):
                raise self.lost(message) from error
            raise
        finally:
            self.end_watch()


def missing_processes(seconds: float = ANSWER_SECONDS) -> list[int]:
    """The ranks that do not answer; all that are left call this when their exchange has failed."""
    # There is no public way to the store through which the processes have found each other.
    store = dist.distributed_c10d._get_default_store()
    store.set_timeout(timedelta(seconds=seconds))
    rank, size = rank_and_size()
    until = time.monotonic() + seconds
    missing = []
    with contextlib.suppress(RuntimeError):
        store.set(f"roll_call/{rank}", "here")
    for other in range(size):
        try:
            store.wait([f"roll_call/{other}"], timedelta(seconds=max(until - time.monotonic(), 0.1)))
        except RuntimeError:
            missing.append(other)
    return missing


def end_stopped(pids: list[int]) -> list[str]:
    """Ends those of some processes of this machine that are stopped, and names them."""
    ended = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_STOPPED:
                process.kill()
                ended.append(f"pid {pid}")
    return ended
