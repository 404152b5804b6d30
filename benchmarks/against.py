"""A training step of today's code beside that of an older revision: `training_step.py --against REVISION`.

Each side runs in a process of its own, in which `hf_ssl_speech` is that of its revision; the older one is checked out
to a temporary folder. Both get the same configuration, weights and batch, and the losses, without dropout, are compared
in training mode before the clock starts. Then they take their steps in turn, in random order.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
AGREES = {"float32": 1e-4, "bfloat16": 2e-2}  # largest relative difference of the loss
DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "feat_quantizer_dropout")


def without_dropout(config_class: type) -> dict[str, float]:
    """The fields of a configuration that turn dropout off."""
    return {name: 0.0 for name in DROPOUTS if hasattr(config_class(), name)}


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A folder with the files of a revision, as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


class Side:
    """A process with one of the two revisions, which takes a step when it is asked to."""

    def __init__(self, tree: Path, given: Path):
        environment = os.environ | {"PYTHONPATH": str(tree)}
        command = [sys.executable, "-P", __file__, str(given)]  # -P: only packages of the tree
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, cwd=tree, text=True, **pipes)
        self.loss = self.answer()

    def answer(self) -> float:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("A revision can't take the step: see the error above.")
        return float(line)

    def step(self) -> float:
        """The CPU seconds of one step."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def times_against(
    revision: str, model: torch.nn.Module, batch: dict[str, torch.Tensor], precision: str, rounds: int, warm_up: int = 3
) -> tuple[dict[str, list[float]], float]:
    """CPU seconds of each step of today's code (`ours`) and of the revision, and the difference of the losses.

    Args:
        model: Today's, in training mode; its configuration and weights are what both sides get.
    """
    fields = model.config.to_diff_dict()
    with checked_out(revision) as tree, tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "given.pt")
        kept: dict[str, Any] = {"kind": type(model).__name__, "config": fields, "precision": precision}
        torch.save(kept | {"weights": model.state_dict(), "batch": batch}, given)
        sides = {"ours": Side(ROOT, given), revision: Side(tree, given)}
        difference = abs(sides["ours"].loss / sides[revision].loss - 1)
        if difference > AGREES[precision]:
            raise SystemExit(f"The losses differ by {difference:.1e}.")
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(warm_up + rounds):
            for name in random.sample(list(sides), 2):
                times[name].append(sides[name].step())
        for side in sides.values():
            side.close()
    return {name: measured[warm_up:] for name, measured in times.items()}, difference


def serve(given: str):
    """Builds the model of this process's revision, tells its loss, and takes a step for each line that comes in."""
    import time

    import hf_ssl_speech

    with contextlib.suppress(ImportError):
        from hf_ssl_speech.allocation import keep_memory

        keep_memory()
    torch.set_num_threads(1)
    kept = torch.load(given)
    kind = getattr(hf_ssl_speech, kept["kind"])

    def make_model(**fields: float) -> torch.nn.Module:
        model = kind(kind.config_class.from_dict(kept["config"] | fields))
        model.load_state_dict(kept["weights"])
        model.set_update(0)
        return model.train()

    def loss(model: torch.nn.Module) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=kept["precision"] == "bfloat16"):
            return model(**kept["batch"]).loss

    with torch.no_grad():
        print(loss(make_model(**without_dropout(kind.config_class))).item(), flush=True)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    for _ in sys.stdin:
        start = time.process_time()
        loss(model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
