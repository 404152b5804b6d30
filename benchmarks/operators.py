"""Where the time of a training step goes, by kind of operator, and how fast those are that multiply.

    python benchmarks/operators.py --output_file docs/measured/operators.json

HuBERT with 100 units, the steps of `training_step`, watched by torch's profiler on one thread. The operations of a step,
counted by formula, divided by the time of the operators that multiply, are a share of the rate of a large matrix
product: the share of the whole step that would be left if nothing else took time.
"""

from collections import Counter

import torch
from measuring import WARM_UP, arguments, machine, product_rate, write_results
from torch.profiler import ProfilerActivity, profile
from training_step import AGREES, SIZES, make_batch, make_config, make_step, operations

from hf_ssl_speech import SSLHubertForPreTraining
from hf_ssl_speech.allocation import keep_memory
from hf_ssl_speech.audio import SAMPLE_RATE

# Operators by parts of their names; the first kind that fits counts.
KINDS = {
    "convolutions": ("convolution", "conv1d", "conv2d"),
    "matrix products": ("::mm", "::addmm", "::bmm", "::baddbmm", "linear", "::matmul", "scaled_dot_product"),
    "GELU": ("gelu",),
    "norms and softmax": ("norm", "softmax", "::std", "::var"),
    "dropout": ("dropout", "random_", "bernoulli"),
    "copies and casts": ("copy_", "::cat", "::pad", "::constant_pad", "::clone", "::zero_", "::fill_", "::stack"),
    "sums, residuals and other steps through memory": ("::add", "::mul", "::sum", "::where", "::masked_fill", "::div"),
    "optimizer": ("adamw", "foreach"),
}
REST = "the rest"
PRODUCTS = ("convolutions", "matrix products")


def kind_of(operator: str) -> str:
    name = operator.lower()
    # Norms of gradients are the optimizer's.
    if "foreach" in name:
        return "optimizer"
    return next((kind for kind, marks in KINDS.items() if any(mark in name for mark in marks)), REST)


def watch_steps(size: str, precision: str, steps: int, audio: tuple[int, float], rate: float) -> dict[str, object]:
    """Shares of the step's time by kind of operator, and the rate of those that multiply."""
    rows, seconds = audio
    torch.manual_seed(0)
    config = make_config("hubert-100", size)
    model, batch = SSLHubertForPreTraining(config).train(), make_batch(config, rows, seconds)
    model.set_update(0)
    step = make_step(model, lambda: model(**batch).loss, precision)
    for _ in range(WARM_UP):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        for _ in range(steps):
            step()
    times: Counter[str] = Counter()
    calls = 0
    for event in watched.key_averages():
        times[kind_of(event.key)] += event.self_cpu_time_total / 1e6 / steps
        calls += event.count
    total = sum(times.values())
    work = operations(config, rows, round(seconds * SAMPLE_RATE))
    return {
        "size": size,
        "precision": precision,
        "audio": f"{rows} x {seconds:g} s",
        "steps": steps,
        "seconds": total,
        "calls": calls / steps,
        "shares": {kind: times[kind] / total for kind in (*KINDS, REST)},
        "share_of_product": work / total / rate,
        "share_of_product_in_products": work / sum(times[kind] for kind in PRODUCTS) / rate,
    }


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        argv,
        __doc__,
        7,
        sizes=dict(nargs="+", default=list(SIZES), choices=list(SIZES), help="sizes of the model"),
        precisions=dict(nargs="+", default=list(AGREES), choices=list(AGREES), help="what the step computes in"),
    )
    keep_memory()
    if args.quick:
        args.sizes, args.rounds = ["tiny"], 1
    rates = {precision: product_rate(getattr(torch, precision)) for precision in args.precisions}
    cases = []
    for size in args.sizes:
        for precision in args.precisions:
            audio = (1, 1.0) if args.quick else SIZES[size][1:]
            cases.append(watch_steps(size, precision, args.rounds, audio, rates[precision]))
            shares = ", ".join(f"{kind} {share:.0%}" for kind, share in cases[-1]["shares"].items())
            print(
                f"{size} {precision}: {cases[-1]['seconds']:.3f} s, {cases[-1]['share_of_product']:.0%} of a product, "
                f"{cases[-1]['share_of_product_in_products']:.0%} in products; {shares}",
                flush=True,
            )
            write_results(args.output_file, {"machine": machine(), "product_rate": rates, "cases": cases})


if __name__ == "__main__":
    main()
