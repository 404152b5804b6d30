"""Makes docs/performance.md from the figures in docs/measured, which the other benchmarks write.

python benchmarks/training_step.py --output_file docs/measured/training_step.json
python benchmarks/kmeans.py --output_file docs/measured/kmeans.json
    (and so on: operators, mfcc, labelling, loading, memory, equal_lengths, transcription, scaling, traffic)
python benchmarks/performance_page.py
"""

import json
from pathlib import Path

from performance_sections import draw_growth, draw_scaling, sections

from hf_ssl_speech.markdown import table

DOCS = Path(__file__).parents[1] / "docs"
PAGE, MEASURED = DOCS / "performance.md", DOCS / "measured"

# What we aim at, by what the processor computes with: how many times as fast as the peer, by precision.
GOALS = {
    "AVX512 with bf16": {
        "float32": {"wav2vec2 small": 1.9, "wav2vec2 base": 1.3, "hubert-100 small": 1.4, "hubert-500 small": 1.9},
        "bfloat16": {"wav2vec2 small": 2.5, "wav2vec2 base": 1.7, "hubert-100 small": 1.8, "hubert-500 small": 3.0},
    },
    "AVX2": {
        "float32": {"wav2vec2 small": 1.6, "wav2vec2 base": 1.3, "hubert-100 small": 1.2, "hubert-500 small": 1.8},
    },
}
# And which share of the rate of a matrix product.
SHARES = {"float32": {"small": 0.85, "tiny": 0.75}, "bfloat16": {"small": 0.85, "tiny": 0.60}}

TEXT = """# Speed

<!-- Made by `python benchmarks/performance_page.py` from docs/measured: change that, not this page. -->

Whole training steps (forward, backward, clipping, AdamW) beside those of transformers and torchaudio, with the same
weights, audio, masks, negatives and labels. Loss and gradients of both sides were compared before the clock started.
The time is CPU time of one thread in the median of at least {rounds} rounds, in which each side takes one step, in random
order. The machine is shared, so figures of two runs differ more than those within one. `small` has 512 channels in its
conv encoder here, as the papers have.

*Goal* is what we aim at. *Memory* is what the forward pass keeps for the backward pass, as a share of what the other
side keeps; the goal beside transformers is 60% in float32 and 50% in bf16. The operations of a step are counted by
formula; divided by its time, they are a share of the rate that a large matrix product, torch's or oneDNN's, reached in
the same run.
The last column is the share that the goal beside the other side would take: near 100% it can't be had on that processor.

{machines}

{sections}

## What makes it fast

- The conv encoder keeps the channels of a frame side by side, from the waveform to the transformer: nothing changes its
  layout between layers.
- The first group norm follows from the covariance of the samples in a window, so the first convolution and its norm are
  one small matrix product.
- The positional convolution is a matrix product: of all frames that a block of four sees, and four shifted kernels. In
  batches with fewer frames than one and a half times the kernel's width torch's convolution is faster, and is taken.
- Attention is written out as matrix products where torch's own is slower: in bf16, and with dropout.
- On AMD processors with AVX-512, float32 products are left to oneDNN: MKL, which torch takes for them, uses half of
  their width.
- There, linear layers compute a multiple of 32 frames, so that oneDNN need not make machine code for every length of a
  batch.
- Dropout decides for four values with each random number.
- HuBERT's logits come from one matrix product on masked frames only, wav2vec 2.0's from one per utterance.
- `hf-ssl-speech` lets freed memory stay with the process. From Python, call
  `hf_ssl_speech.allocation.keep_memory()` before the training: it saves a sixth of a small model's time.

Out of training none of this is used but the heads: the outputs are those of the stock models, bit by bit. GPUs take the
plain way too, since nothing of it has been measured there: `benchmarks/gpu_step.py` is the command for it.

`--torch_compile true` compiles conv layers, transformer layers and the head, each by itself and in training only. An
epoch of LibriSpeech's lengths takes at most 12 graphs, with and without padding, and no update of layer drop another
one. It is meant for GPUs, where it was not measured: on the CPU steps of the tiny size took 4 to 28% longer than in the
plain ways above, after three to eleven minutes of compiling on two busy cores.

What was tried and does not pay: the positional convolution by Fourier transforms (the gradient of its weight took 25
instead of 15 ms at the small size in float32, and the same 24 instead of 12 ms in bf16); attention without dropout in
float32 as oneDNN's products (a step of the tiny size takes as long, and keeps the scores); huge pages (no difference);
float32 weight gradients of channels-last convolutions by oneDNN
(up to four times slower than the matrix product that is used instead); the conv encoder in blocks of frames that stay
in the cache, with activations computed again (60% of the memory at the small size in float32, but a step of the tiny
size in bf16 takes a sixth longer); queries, keys and values as one product over their joined weights (a layer of the
tiny size, forward and backward of 2 x 299 frames in float32 on an AMD EPYC with AVX2, took 36.3 instead of 34.8 ms, its
projections and products alone 14.9 instead of 15.2).
"""


def milliseconds(case: dict, side: str) -> str:
    times = case["seconds"][side]
    return f"{times['median'] * 1e3:,.0f} ({times['minimum'] * 1e3:,.0f} to {times['maximum'] * 1e3:,.0f})"


def name_of(case: dict) -> str:
    return f"{case['objective']} {case['size']}"


def step_row(case: dict, goals: dict) -> list[str]:
    peer, goal = case["beside"], goals.get(case["precision"], {}).get(name_of(case))
    return [
        f"{name_of(case)}, {case['audio']}",
        case["precision"],
        milliseconds(case, "ours"),
        f"{peer} {milliseconds(case, peer)}",
        f"**{case['times_as_fast']:.2f}**",
        f"{goal:.1f}" if goal else "",
        f"{case['saved_megabytes']['ours'] / case['saved_megabytes'][peer]:.0%}",
    ]


def share_row(case: dict, goals: dict) -> list[str]:
    goal, beside = SHARES[case["precision"]].get(case["size"]), goals.get(case["precision"], {}).get(name_of(case))
    needed = case["share_of_product"]["ours"] * beside / case["times_as_fast"] if beside else None
    return [
        name_of(case),
        case["precision"],
        f"{case['gigaflop']:,.0f}",
        f"{case['audio_seconds_per_second']:.1f}",
        f"**{case['share_of_product']['ours']:.0%}**",
        f"{goal:.0%}" if goal else "",
        f"{case['share_of_product'][case['beside']]:.0%}",
        f"{needed:.0%}" if needed else "",
    ]


def rates_of(results: list[dict], precision: str) -> str:
    """The rate of a large matrix product, as each run of a machine has measured it, in GFLOP/s."""
    rates = sorted({round(result["product_rate"][precision] / 1e9) for result in results})
    return " to ".join(map(str, rates[:1] + rates[1:][-1:]))


def machine_section(results: list[dict]) -> str:
    """What was measured on one machine, in one run or several."""
    machine, cases = results[0]["machine"], [case for result in results for case in result["cases"]]
    goals = next((found for name, found in GOALS.items() if machine["processor"].endswith(name)), {})
    measured = {(name_of(case), case["precision"]) for case in cases}
    missing = [f"{name} {each}" for each, names in goals.items() for name in names if (name, each) not in measured]
    rates = [f"{rates_of(results, name)} GFLOP/s in {name}" for name in results[0]["product_rate"]]
    steps = ["step", "precision", "ours, ms", "beside, ms", "times as fast", "goal", "memory"]
    shares = ["step", "precision", "GFLOP", "seconds of audio a second", "share", "goal", "of the other side"]
    shares.append("share at the goal beside it")
    return f"""## Training steps on {machine["processor"]}

torch {machine["torch"]}, transformers {machine["transformers"]}, torchaudio {machine["torchaudio"]}; glibc told to keep
freed memory for both sides. A large matrix product reaches {" and ".join(rates)}.
Not measured yet: {", ".join(missing) or "nothing"}.

{table(steps, [step_row(case, goals) for case in cases])}

{table(shares, [share_row(case, goals) for case in cases])}"""


def page() -> str:
    results = [json.loads(file.read_text()) for file in sorted(MEASURED.glob("training_step*.json"))]
    machines: dict[str, list[dict]] = {}
    for result in results:
        machines.setdefault(result["machine"]["processor"], []).append(result)
    return TEXT.format(
        rounds=min(case["rounds"] for result in results for case in result["cases"]),
        machines="\n\n".join(map(machine_section, machines.values())),
        sections=sections(MEASURED),
    )


if __name__ == "__main__":
    PAGE.write_text(page())
    if (MEASURED / "kmeans.json").exists():
        draw_growth(MEASURED, DOCS / "images" / "kmeans_growth.png")
    if (MEASURED / "scaling.json").exists():
        draw_scaling(MEASURED, DOCS / "images" / "scaling.png")
