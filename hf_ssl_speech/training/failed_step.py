"""An update whose gradient is no number is not made: all that it was computed from is kept, and can be replayed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer

from hf_ssl_speech.files import read_json, write_json
from hf_ssl_speech.models.classes import CLASSES, load_config
from hf_ssl_speech.training.callbacks import other_recipe
from hf_ssl_speech.training.checkpoints import newest_whole
from hf_ssl_speech.training.lora import has_adapters
from hf_ssl_speech.training.outcomes import UnhealthyRun

FOLDER, FACTS_FILE = "failed-step", "step.json"


@dataclass
class Step:
    """One update before it is made.

    Attributes:
        batches: The inputs of each micro-batch.
        random_states: The states of torch's generators before each: `cpu`, and `device` where that is another.
        items: What each loss is divided by.
        losses: Of each micro-batch, once computed.
    """

    batches: list[dict[str, Tensor]] = field(default_factory=list)
    random_states: list[dict[str, Tensor]] = field(default_factory=list)
    items: list[Tensor | int | None] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)


class FailedSteps(Trainer):
    """A Trainer that keeps, in `failed-step`, an update that fails, instead of making it.

    With fp16 the loss scaler skips updates whose gradient is not finite, which is normal: none is kept. Nor are those
    of adapters, which are no model by themselves.
    """

    step: Step | None = None

    @property
    def keeps_failed_steps(self) -> bool:
        """Whether every update is looked at; not on other devices than CPUs, which would wait for the host."""
        asked = self.args.keep_failed_step
        wanted = self.args.device.type == "cpu" if asked is None else asked
        return wanted and not self.args.fp16 and not has_adapters(self.model)

    def training_step(self, model, inputs: dict[str, Any], num_items_in_batch=None) -> Tensor:
        """Trainer's own, of a micro-batch that is remembered until the update is made."""
        if not self.keeps_failed_steps:
            return super().training_step(model, inputs, num_items_in_batch)
        self.step = self.step or Step()
        inputs = self._prepare_inputs(inputs)  # with what a teacher says of them
        self.step.batches.append(dict(inputs))
        self.step.random_states.append(random_state(self.args.device))
        self.step.items.append(num_items_in_batch)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.step.losses.append(loss)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """Trainer's own, between the gradient and the update.

        Raises:
            UnhealthyRun: If it is no number, on all ranks, which have one gradient.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        step, self.step = self.step, None
        if step and not math.isfinite(norm):
            folder = Path(self.args.output_dir, FOLDER)
            self.keep_step(step, float(norm), folder)
            last = newest_whole(self.args.output_dir)
            raise UnhealthyRun(
                f"The norm of the gradient is {float(norm)} in update {self.state.global_step + 1}: the run diverged, "
                f"and this update is not made. `hf-ssl-speech replay {folder}` computes it again and tells where it "
                f"goes wrong. A lower learning_rate, a longer warm-up or gradient clipping (max_grad_norm) helps. "
                f"{other_recipe(last)}"
            )
        return norm

    def keep_step(self, step: Step, norm: float, folder: Path):
        """Writes weights, batches, random states and what was found; each rank its own part."""
        self.save_model(str(folder))
        rank, args, model = self.args.process_index, self.args, self.accelerator.unwrap_model(self.model)
        tensors = {}
        for number, (batch, states) in enumerate(zip(step.batches, step.random_states)):
            tensors |= {f"{number}.input.{name}": each.cpu().contiguous() for name, each in batch.items()}
            tensors |= {f"{number}.random.{name}": each.cpu() for name, each in states.items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part_file(folder, rank))
        facts = {
            "format": 1,
            "update": self.state.global_step + 1,
            "bf16": bool(args.bf16),
            "processes": args.world_size,
            "threads": torch.get_num_threads(),
            "attention": model.config._attn_implementation,
            "frozen": [name for name, weight in model.named_parameters() if not weight.requires_grad],
            "items": [None if each is None else int(each) for each in step.items],
            "losses": [float(loss).hex() for loss in step.losses],  # JSON knows no NaN, and the digits stay
            "norm": norm.hex(),
        }
        write_json(facts, folder / f"rank-{rank}-{FACTS_FILE}")


@dataclass(frozen=True)
class Replay:
    """What a replay found.

    Attributes:
        losses, norm: As they come out now.
        kept_losses, kept_norm: As they came out in the run; the norm is None if other processes took part in it.
        first: The module whose output is the first that is not finite although its input is; None if there is none.
        weights: Names of the weights whose gradient is not finite.
    """

    losses: list[float]
    norm: float
    kept_losses: list[float]
    kept_norm: float | None
    first: str | None
    weights: list[str]

    @property
    def is_exact(self) -> bool:
        """Whether all came out as in the run, to the last bit."""
        pairs = list(zip(self.losses, self.kept_losses))
        pairs += [] if self.kept_norm is None else [(self.norm, self.kept_norm)]
        return all(now.hex() == then.hex() for now, then in pairs)


def replay(folder: str | os.PathLike, rank: int = 0, device: str = "cpu") -> Replay:
    """Computes a kept update again, from its weights, batches and random states.

    Args:
        folder: `failed-step` of a run.
        rank: Of the process whose part is computed.
        device: Where; only on the same kind of device, with as many threads, all comes out to the last bit.
    Raises:
        ValueError: If nothing is kept there.
    """
    folder = Path(folder)
    file = folder / f"rank-{rank}-{FACTS_FILE}"
    if not file.exists():
        raise ValueError(f"{folder} holds no update that failed: give the folder {FOLDER} of a run.")
    facts, tensors = read_json(file, "an update that failed"), load_file(part_file(folder, rank))
    config = load_config(folder)
    model_class = CLASSES[config.architectures[0]]
    model = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation=facts["attention"])
    model = model.to(device).train()
    model.set_update(facts["update"] - 1)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name not in facts["frozen"])
    found: list[str] = []
    losses = []
    with noticing(model, found), threads(facts["threads"]):
        for number, items in enumerate(facts["items"]):
            states = named_after(tensors, f"{number}.random.")
            torch.set_rng_state(states["cpu"])
            if "device" in states and device != "cpu":
                torch.cuda.set_rng_state(states["device"], device)
            batch = {name: each.to(device) for name, each in named_after(tensors, f"{number}.input.").items()}
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=facts["bf16"]):
                loss = model(**batch, num_items_in_batch=items).loss
            # As in training, where the gradient is a mean over processes.
            (loss * facts["processes"] if items is not None else loss / len(facts["items"])).backward()
            losses.append(float(loss.detach() * (facts["processes"] if items is not None else 1)))
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        norm = float(nn.utils.get_total_norm(list(gradients.values())))
    return Replay(
        losses,
        norm,
        [float.fromhex(loss) for loss in facts["losses"]],
        float.fromhex(facts["norm"]) if facts["processes"] == 1 else None,
        found[0] if found else None,
        [name for name, gradient in gradients.items() if not gradient.isfinite().all()],
    )


def part_file(folder: Path, rank: int) -> Path:
    """The tensors of a rank."""
    return folder / f"rank-{rank}-step.safetensors"


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that a step on a device draws from."""
    on_device = {"device": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **on_device}


def named_after(tensors: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(beginning): each for name, each in tensors.items() if name.startswith(beginning)}


@contextmanager
def threads(number: int) -> Iterator[None]:
    """As many threads as the run had: sums are split up among them."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_watched(module: nn.Module) -> bool:
    """Leaves, but for convolutions what is around them: it may compute them itself, and otherwise beside a hook."""
    children = list(module.children())
    if isinstance(module, nn.Conv1d):
        return False
    return not children or any(isinstance(child, nn.Conv1d) for child in children)


@contextmanager
def noticing(model: nn.Module, found: list[str]) -> Iterator[None]:
    """Adds the names of modules whose output is not finite although their input is, in the order of computing."""

    def is_finite(values: Any) -> bool:
        tensors = values if isinstance(values, (tuple, list)) else [values]
        return all(
            bool(each.isfinite().all()) for each in tensors if isinstance(each, Tensor) and each.is_floating_point()
        )

    def hook(name: str):
        def look(module, inputs, output):
            if is_finite(inputs) and not is_finite(output):
                found.append(name)

        return look

    watched = ((name, module) for name, module in model.named_modules() if is_watched(module))
    handles = [module.register_forward_hook(hook(name)) for name, module in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
