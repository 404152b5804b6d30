"""Where the time of a training step goes, by kind of operator, and how fast those are that multiply.

    python benchmarks/operators.py --output_file docs/measured/operators.json

The steps of `training_step`, of HuBERT with 100 units on one thread. All operators, forward and backward, are timed one
by one. The operations of a step, counted by formula, divided by the time of those that multiply, are a share of the
rate of a large matrix product: that of a step in which nothing else took time.
"""

import time
from collections import Counter

import torch
from measuring import arguments, in_turn, machine, product_rate, spread, write_results
from torch.utils._python_dispatch import TorchDispatchMode
from training_step import AGREES, SIZES, make_batch, make_config, make_step, operations

from hf_ssl_speech import SSLHubertForPreTraining
from hf_ssl_speech.allocation import keep_memory
from hf_ssl_speech.audio import SAMPLE_RATE

# Operators by parts of their names; the first kind that fits counts. What none fits is counted as the rest, with all
# that lies between the operators.
KINDS = {
    "convolutions": ("convolution",),
    "matrix products": ("::mm", "addmm", "bmm", "linear_pointwise", "mkldnn::linear", "scaled_dot_product"),
    "optimizer, clipping": ("adamw", "foreach"),
    "GELU": ("gelu",),
    "norms, softmax": ("norm", "softmax"),
    "sums, dropout": (
        "::add",
        "::mul",
        "::sum",
        "::where",
        "::masked_fill",
        "random",
        "::ge",
        "::rsub",
        "::sub",
        "::div",
    ),
    "copies, casts": ("copy", "clone", "::cat", "::stack", "pad", "zero", "::fill"),
}
REST = "the rest"
PRODUCTS = ("convolutions", "matrix products")


def kind_of(operator: str) -> str:
    return next((kind for kind, marks in KINDS.items() if any(mark in operator for mark in marks)), REST)


class Watch(TorchDispatchMode):
    """Adds up the CPU time of operators by kind."""

    def __init__(self):
        super().__init__()
        self.seconds: Counter[str] = Counter()
        self.calls = 0

    def __torch_dispatch__(self, operator, types, given=(), named=None):
        start = time.process_time()
        result = operator(*given, **(named or {}))
        self.seconds[kind_of(str(operator).replace(".", "::", 1))] += time.process_time() - start
        self.calls += 1
        return result


def watch_steps(size: str, precision: str, rounds: int, audio: tuple[int, float], rate: float) -> dict[str, object]:
    """The time of a step, the share of each kind of operator, and the rate of those that multiply."""
    rows, seconds = audio
    torch.manual_seed(0)
    config = make_config("hubert-100", size)
    model, batch = SSLHubertForPreTraining(config).train(), make_batch(config, rows, seconds)
    model.set_update(0)
    step = make_step(model, lambda: model(**batch).loss, precision)
    whole = spread(in_turn({"step": step}, rounds)["step"])
    with Watch() as watch:
        for _ in range(rounds):
            step()
    each = {kind: taken / rounds for kind, taken in watch.seconds.items() if kind != REST}
    work = operations(config, rows, round(seconds * SAMPLE_RATE))
    shares = {kind: each.get(kind, 0.0) / whole["median"] for kind in KINDS}
    return {
        "work": f"{size} {precision}, {rows} x {seconds:g} s",
        "rounds": rounds,
        "seconds": {"ours": whole},
        "operators": watch.calls // rounds,
        "shares": shares | {REST: 1 - sum(shares.values())},
        "share_of_product": work / whole["median"] / rate,
        "share_in_products": work / sum(each[kind] for kind in PRODUCTS) / rate,
    }


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        argv,
        __doc__,
        9,
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
            case = watch_steps(size, precision, args.rounds, audio, rates[precision])
            cases.append(case)
            shares = ", ".join(f"{kind} {share:.0%}" for kind, share in case["shares"].items())
            told = ", ".join(f"{name} {case[name]:.0%}" for name in ("share_of_product", "share_in_products"))
            print(f"{case['work']}: {case['seconds']['ours']['median']:.3f} s, {told}; {shares}", flush=True)
            settings = {"model": "hubert-100", "product_rate": rates}
            write_results(args.output_file, {"machine": machine(), "settings": settings, "cases": cases})


if __name__ == "__main__":
    main()
