"""What a training step computes and what it moves, part by part: products beside bytes, for each second of audio.

    python benchmarks/traffic.py --output_file docs/measured/traffic.json

One step of HuBERT with 100 units in float32, as the CPU takes it, is watched. Of every operator that is no view,
forward and backward, the bytes that it reads and writes are counted, as if no cache kept any, and the operations of
matrix products and convolutions. What is kept is what the forward pass saves for the backward pass, without weights.
Nothing is timed: the figures are the same on every machine of this kind.
"""

from collections import Counter

import torch
from measuring import arguments, machine, write_results
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker
from training_step import make_batch, make_config

from hf_ssl_speech import SSLHubertForPreTraining

SECONDS = 10.0
# Parts of the model by the ends of their modules' names; the first that fits counts.
PARTS = {
    "conv layer 1, with its norm": (".conv_layers.0",),
    "conv layers 2 to 7": (".conv_layers.",),
    "projection": (".feature_projection",),
    "positional convolution": (".pos_conv_embed",),
    "attention": (".attention",),
    "feed-forward": (".feed_forward",),
    "norms, residuals and dropout": (".encoder",),
}
REST = "head and loss"


def part_of(modules: set[str]) -> str:
    """The part of the model to which an operator belongs, by the names of the modules that are at work."""
    for part, marks in PARTS.items():
        if any(mark in name for mark in marks for name in modules):
            return part
    return REST


class Watch(TorchDispatchMode):
    """Counts operations and bytes of all operators by part."""

    def __init__(self, tracker: ModuleTracker):
        super().__init__()
        self.tracker = tracker
        self.operations: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()

    def __torch_dispatch__(self, operator, types, given=(), named=None):
        named = named or {}
        result = operator(*given, **named)
        part, packet = part_of(self.tracker.parents), operator.overloadpacket
        if packet is torch.ops.aten.convolution_backward:  # torch's count knows no groups
            gradient, _, weight, wanted = *given[:3], given[-1]
            self.operations[part] += sum(wanted[:2]) * 2 * gradient.numel() * weight[0].numel()
        elif packet in flop_registry:
            self.operations[part] += flop_registry[packet](*given, **named, out_val=result)
        if not operator.is_view:
            tensors = [each for each in tree_leaves((given, named, result)) if isinstance(each, torch.Tensor)]
            self.moved[part] += sum(each.numel() * each.itemsize for each in tensors)
        return result


def watch_step(size: str, seconds: float) -> dict[str, dict[str, float]]:
    """GFLOP, and MB moved and kept, of each part for a second of audio."""
    torch.manual_seed(0)
    config = make_config("hubert-100", size)
    model = SSLHubertForPreTraining(config).train()
    model.set_update(0)
    batch = make_batch(config, 1, seconds)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, tuple[str, int]] = {}
    tracker = ModuleTracker()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept.setdefault(storage.data_ptr(), (part_of(tracker.parents), storage.nbytes()))
        return tensor

    with tracker, Watch(tracker) as watch:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(**batch).loss
        loss.backward()
    of_parts: Counter[str] = Counter()
    for part, size_in_bytes in kept.values():
        of_parts[part] += size_in_bytes
    return {
        part: {
            "gigaflop": watch.operations[part] / seconds / 1e9,
            "moved_megabytes": watch.moved[part] / seconds / 1e6,
            "kept_megabytes": of_parts[part] / seconds / 1e6,
        }
        for part in (*PARTS, REST)
    }


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        argv,
        __doc__,
        1,
        sizes=dict(nargs="+", default=["small", "base"], choices=["tiny", "small", "base"], help="sizes of the model"),
    )
    seconds = SECONDS
    if args.quick:
        args.sizes, seconds = ["tiny"], 1.0
    sizes = {size: watch_step(size, seconds) for size in args.sizes}
    for size, parts in sizes.items():
        for part, found in parts.items():
            print(size, part, {name: round(value, 2) for name, value in found.items()}, flush=True)
    settings = {"model": "hubert-100", "seconds": seconds, "precision": "float32"}
    write_results(args.output_file, {"machine": machine(), "settings": settings, "sizes": sizes})


if __name__ == "__main__":
    main()
