"""How the benchmarks measure: variants in turn, CPU time of one thread, beside what the machine can compute."""

import argparse
import json
import os
import platform
import random
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from hf_ssl_speech.models.products import product

WARM_UP = 3  # rounds that are not counted


def processor() -> str:
    """The processor's name and what it computes with, such as "AMD EPYC (family 26), AVX512"."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value}
    name = facts.get("model name", platform.processor() or platform.machine())
    family = f" (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else ""
    bf16 = " with bf16" if torch.cpu._is_avx512_bf16_supported() else ""
    return f"{name}{family}, {torch.backends.cpu.get_cpu_capability()}{bf16}"


def machine(*packages: str) -> dict[str, object]:
    """What a figure depends on besides the code."""
    limits = {name: os.environ[name] for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA") if name in os.environ}
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "tunables": os.environ.get("GLIBC_TUNABLES", ""),
        **limits,
        **{package: version(package) for package in ("torch", *packages)},
    }


def in_turn(variants: dict[str, Callable[[], object]], rounds: int, warm_up: int = WARM_UP) -> dict[str, list[float]]:
    """CPU seconds of each variant in each round; rounds run all of them, in random order, and the first warm up."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(warm_up + rounds):
        for name in random.sample(list(variants), len(variants)):
            start = time.process_time()
            variants[name]()
            times[name].append(time.process_time() - start)
    return {name: measured[warm_up:] for name, measured in times.items()}


def side_by_side(
    work: str, variants: dict[str, Callable[[], object]], rounds: int, warm_up: int = WARM_UP, **facts: object
) -> dict[str, object]:
    """The times of the first variant, ours, beside those of the others, as a case of the results; it is printed."""
    times = in_turn(variants, rounds, warm_up)
    ours, *others = times
    ratios = {name: median_ratio(times[ours], times[name]) for name in others}
    case = {"work": work, "rounds": rounds, "seconds": {name: spread(each) for name, each in times.items()}}
    case |= {"times_as_fast": ratios, **facts}
    print(json.dumps(case), flush=True)
    return case


def spread(times: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(times), "minimum": min(times), "maximum": max(times)}


def median_ratio(times: Sequence[float], beside: Sequence[float]) -> float:
    """How many times as fast the first is, in the median over rounds."""
    return statistics.median(other / own for own, other in zip(times, beside))


def product_rate(dtype: torch.dtype, rounds: int = 15, size: int = 1024) -> float:
    """Floating-point operations a second of a large matrix product, the best of some rounds of CPU time.

    The product is torch's own or, where that is faster, the one that this package takes instead.
    """
    matrix = torch.randn(size, size).to(dtype)
    ways = {"torch": torch.matmul, "ours": product}
    products = {name: lambda way=way: [way(matrix, matrix) for _ in range(4)] for name, way in ways.items()}
    times = in_turn(products, rounds)
    return 4 * 2 * size**3 / min(min(measured) for measured in times.values())


def arguments(argv: list[str] | None, about: str, rounds: int, **settings: dict[str, object]) -> argparse.Namespace:
    """The command line of a benchmark: rounds, --quick, --output_file and settings of its own; it sets one thread."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds that count (default: {rounds})")
    parser.add_argument("--quick", action="store_true", help="very little work, to see that it runs")
    parser.add_argument("--output_file", help="JSON with all figures")
    for name, options in settings.items():
        parser.add_argument(f"--{name}", **options)
    torch.set_num_threads(1)
    return parser.parse_args(argv)


def words(command: str, *names: str, **settings: object) -> list[str]:
    """A command of `hf-ssl-speech` with its settings; a list is several values, a dictionary is JSON."""
    found = [command, *names]
    for name, value in settings.items():
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        found += [f"--{name}", *(str(each).lower() if isinstance(each, bool) else str(each) for each in values)]
    return found


def run_commands(commands: dict[str, list[str]], folder: Path) -> dict[str, float]:
    """Runs commands of `hf-ssl-speech`, by name, one after the other, and stops at the first that fails.

    Returns:
        The CPU seconds of each, over all starts; they are kept in `folder`.
    """
    file = folder / "cpu_seconds.json"
    folder.mkdir(parents=True, exist_ok=True)
    seconds = json.loads(file.read_text()) if file.exists() else {}
    for name, command in commands.items():
        print(f"$ hf-ssl-speech {shlex.join(command)}", flush=True)
        before = _seconds_of_children()
        code = subprocess.call([sys.executable, "-m", "hf_ssl_speech.commands", *command])
        seconds[name] = seconds.get(name, 0.0) + _seconds_of_children() - before
        write_results(str(file), seconds)
        if code:
            raise SystemExit(f"The last command ended with exit code {code}.")
    return seconds


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write_results(file: str | None, results: dict[str, object]):
    if file:
        Path(file).write_text(json.dumps(results, indent=1) + "\n")
