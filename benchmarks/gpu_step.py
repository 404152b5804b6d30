"""A whole training step on a GPU beside transformers and torchaudio, as it is and compiled.

    python benchmarks/gpu_step.py --output_file docs/measured/gpu_step.json
    python benchmarks/gpu_step.py --dry_run    (the tiny size on a CPU, to see that everything runs)

Both sides have the same weights, audio, masks, negatives and labels; their losses are compared before the clock starts.
A step is forward, backward, clipping and a fused AdamW in bf16, timed between two synchronisations, in turn. Told are
hours of audio a second, TFLOP/s by the formula of the layers, the share of the rate of a large matrix product that was
measured in the same run, and the most memory in use. The first step of what is compiled is told apart.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from measuring import machine, median_ratio, spread, write_results
from torch import Tensor, nn
from training_step import AGREES, make_batch, make_config, make_pair, operations

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.models.compilation import compile_blocks

OBJECTIVES = ("wav2vec2", "hubert-500")
ROW_SECONDS, BATCHES = 12.5, (87.5, 175.0, 350.0, 525.0)
WARM_UP = 3


def synchronized(device: torch.device) -> float:
    """The time once the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def product_rate(device: torch.device, size: int, times: int = 20) -> float:
    """Floating-point operations a second of a large bf16 product."""
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        matrix @ matrix
    start = synchronized(device)
    for _ in range(times):
        matrix @ matrix
    return times * 2 * size**3 / (synchronized(device) - start)


def make_step(model: nn.Module, loss: Callable[[], Tensor], device: torch.device) -> Callable[[], float]:
    """A step that tells its seconds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> float:
        start = synchronized(device)
        with torch.autocast(device.type, torch.bfloat16):
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return synchronized(device) - start

    return step


def compare_losses(pair: dict[str, tuple[nn.Module, Callable[[], Tensor]]], device: torch.device) -> float:
    """The relative difference of both sides' losses; dropout and Gumbel noise differ, so only their size is told."""
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        one, other = (loss().item() for _, loss in pair.values())
    return abs(one / other - 1)


def measure(objective: str, size: str, seconds: float, rounds: int, compiled: bool, device: torch.device, rate: float):
    rows = max(1, round(seconds / ROW_SECONDS))
    # Without dropout, so that both sides compute the same loss but for wav2vec 2.0's Gumbel noise.
    none = dict.fromkeys(("hidden_dropout", "attention_dropout", "feat_proj_dropout"), 0.0)
    config = make_config(objective, size, **none)
    batch = {name: each.to(device) for name, each in make_batch(config, rows, min(seconds, ROW_SECONDS)).items()}
    with torch.device(device):
        pair = make_pair(config, batch)
    for model, _ in pair.values():
        model.to(device)
    difference = compare_losses(pair, device)
    if objective != "wav2vec2" and difference > AGREES["bfloat16"][0]:
        raise SystemExit(f"{objective}: the losses differ by {difference:.1e}.")
    times: dict[str, list[float]] = {name: [] for name in pair}
    first, memory = {}, {}
    for name, (model, loss) in pair.items():  # one after the other: the memory of each is its own
        if compiled:
            compile_blocks(model) if name == "ours" else model.compile()
        step = make_step(model, loss, device)
        first[name] = step()
        for _ in range(WARM_UP - 1):
            step()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        times[name] = [step() for _ in range(rounds)]
        memory[name] = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    peer = next(name for name in pair if name != "ours")
    audio = rows * min(seconds, ROW_SECONDS)
    work = operations(config, rows, round(min(seconds, ROW_SECONDS) * SAMPLE_RATE))
    medians = {name: statistics.median(each) for name, each in times.items()}
    case = {
        "work": f"{objective} {size}, {audio:g} s{', compiled' if compiled else ''}",
        "seconds": {name: spread(each) for name, each in times.items()},
        "times_as_fast": {peer: median_ratio(times["ours"], times[peer])},
        "audio_hours_a_second": {name: audio / 3600 / each for name, each in medians.items()},
        "teraflops": {name: work / each / 1e12 for name, each in medians.items()},
        "share_of_product": {name: work / each / rate for name, each in medians.items()},
        "peak_gigabytes": memory,
        "first_step": first,
        "loss_difference": difference,
    }
    print(json.dumps(case), flush=True)
    return case


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES, choices=OBJECTIVES)
    parser.add_argument("--batch_seconds", nargs="+", type=float, default=BATCHES, help="seconds of audio in a step")
    parser.add_argument("--rounds", type=int, default=9, help="steps that count (default: 9)")
    parser.add_argument("--no_compiled", action="store_true", help="leave out what torch.compile makes of both sides")
    parser.add_argument("--dry_run", action="store_true", help="the tiny size on a CPU, a second of audio")
    parser.add_argument("--output_file", help="JSON with all figures")
    args = parser.parse_args(argv)
    if not args.dry_run and not torch.cuda.is_available():
        raise SystemExit("There is no GPU here: --dry_run shows on a CPU that everything runs.")
    device, size, product = torch.device("cuda"), "base", 8192
    if args.dry_run:
        device, size, product = torch.device("cpu"), "tiny", 256
        args.rounds, args.batch_seconds, args.no_compiled = 1, [1.0], True
    rate = product_rate(device, product)
    kinds = [False] if args.no_compiled else [False, True]
    cases = [
        measure(objective, size, seconds, args.rounds, compiled, device, rate)
        for objective in args.objectives
        for seconds in args.batch_seconds
        for compiled in kinds
    ]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    results = {"machine": machine("transformers", "torchaudio") | {"device": name}, "product_rate": rate}
    settings = {"precision": "bfloat16", "row_seconds": ROW_SECONDS, "warm_up": WARM_UP, "rounds": args.rounds}
    write_results(args.output_file, results | {"settings": settings, "cases": cases})


if __name__ == "__main__":
    main()
