"""The parts of docs/performance.md on everything but the training step, each from the JSON of one benchmark."""

import json
from collections.abc import Callable
from pathlib import Path

from hf_ssl_speech.markdown import table

LEARNT = {"hours_seen": ".2f", "cpu_seconds": ".0f", "eval_loss": ".3f", "eval_masked_accuracy": ".1%"}
GOALS = {"kmeans": "10 times scikit-learn's speed", "batches": "20 s"}


def hours_a_second(case: dict, name: str) -> str:
    """Hours of audio for each second of CPU time."""
    return f"{case['audio_seconds'] / 3600 / case['seconds'][name]['median']:.3g}"


def milliseconds(times: dict) -> str:
    return f"{times['median'] * 1e3:,.1f} ({times['minimum'] * 1e3:,.1f} to {times['maximum'] * 1e3:,.1f})"


def on(machine: dict, *packages: str) -> str:
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", *packages))
    return f"Measured on {machine['processor']}, CPU time of one thread; {versions}"


def kmeans(found: dict) -> str:
    peers = ("scikit-learn", "faiss")
    rows = [
        [
            case["work"],
            *(f"{case['seconds'][name]['median']:.2f}" for name in ("ours", *peers)),
            *(f"**{case['times_as_fast'][peer]:.1f}**" for peer in peers),
            *(f"{case['inertia']['ours'] / case['inertia'][peer]:.4f}" for peer in peers),
        ]
        for case in found["cases"]
    ]
    head = ["frames", "ours, s", "scikit-learn, s", "faiss, s", "times as fast", "as faiss", "inertia", "of faiss'"]
    return f"""## k-means

{found["settings"]["features"]}, 39 values. scikit-learn runs its mini-batches with the settings of HuBERT's recipe,
faiss 25 iterations over all frames. Inertia is ours divided by theirs: below 1 ours is better. The goal is
{GOALS["kmeans"]} for a million frames. Rounds: {min(case["rounds"] for case in found["cases"])}.
{on(found["machine"], "scikit-learn", "faiss-cpu")}.

{table(head, rows)}

![Time against frames and clusters](images/kmeans_growth.png)"""


def mfcc(found: dict) -> str:
    rows = [
        [
            case["work"],
            milliseconds(case["seconds"]["ours"]),
            milliseconds(case["seconds"]["torchaudio"]),
            f"**{case['times_as_fast']['torchaudio']:.2f}**",
            f"{case['largest_difference']:.0e}",
        ]
        for case in found["cases"]
    ]
    head = ["utterances", "ours, ms", "torchaudio, ms", "times as fast", "largest difference"]
    return f"""## MFCC

39 values of {found["settings"]["audio"]}, beside torchaudio's port of Kaldi with two rounds of deltas.
{on(found["machine"], "torchaudio")}.

{table(head, rows)}"""


def labelling(found: dict) -> str:
    rows = []
    for case in found["cases"]:
        peer = next(iter(case["times_as_fast"]), None)
        rows.append(
            [
                case["work"],
                hours_a_second(case, "ours"),
                f"{3600 * float(hours_a_second(case, 'ours')):.0f}",
                f"{peer} {hours_a_second(case, peer)}" if peer else "",
                f"**{case['times_as_fast'][peer]:.2f}**" if peer else "",
                f"{case['equal_labels']:.1%}" if "equal_labels" in case else "",
            ]
        )
    head = ["features", "hours in a second", "hours in an hour", "beside", "times as fast", "labels as in float32"]
    return f"""## Features for units

Hours of audio in a second, and in an hour, of CPU time. transformers computes the same layer row by row in float32. The
encoders have random weights, the labels are those of 100 random centroids. {on(found["machine"], "transformers")}.

{table(head, rows)}"""


def loading(found: dict) -> str:
    rows = []
    for case in found["cases"]:
        names = list(case["seconds"])
        rows.append([case["work"], *(hours_a_second(case, name) for name in names), *[""] * (2 - len(names))])
    batches, head = found["batches"], ["audio", "libsndfile, or the cache", "FFmpeg"]
    return f"""## Reading audio, and batches

Hours of audio decoded in a second of CPU time, noise at 16 kHz: libsndfile is taken for all that it knows, FFmpeg for
the rest. {on(found["machine"], "soundfile", "av")}.

{table(head, rows)}

The batches of {batches["work"]} take {batches["seconds"]["ours"]["median"]:.1f} s and, with the lengths
of the rows, {batches["peak_gigabytes"]:.1f} GB at most; the goal is {GOALS["batches"]}."""


def memory(found: dict) -> str:
    variants, settings = found["variants"], found["settings"]
    rows = [
        [name, *(f"{each:,.0f}" for each in variant["megabytes"][1::2]), f"{variant['seconds_an_update'] * 1e3:.0f}"]
        for name, variant in variants.items()
    ]
    steps = len(variants["kept"]["megabytes"])
    updates = [f"{settings['updates'] * (step + 1) // steps}" for step in range(1, steps, 2)]
    low, high = settings["seconds_of_a_row"]
    return f"""## Memory over a run

Resident MB of {settings["model"]} after so many updates, each of {settings["rows"]} rows of other lengths, between
{low:g} and {high:g} s, where glibc gives freed memory back, where it stays with the process (`keep_memory`), and where
oneDNN moreover keeps few kernels (`keep_few_kernels`, as in `finetune` and `transcribe`); and the CPU time of an
update. {on(found["machine"])}.

{table(["freed memory is", *updates, "ms an update"], rows)}"""


def equal_lengths(found: dict) -> str:
    plans = [
        [
            name,
            f"{plan['batches']:,}",
            f"{plan['shapes']:,}",
            f"{plan['share_with_a_mask']:.0%}",
            f"{plan['padding']:.1%}",
            f"{plan['share_kept']:.1%}",
        ]
        for name, plan in found["epoch"].items()
    ]
    settings, rows = found["settings"], []
    for name, step in found["steps"].items():
        rate = step["audio_seconds"] / step["seconds"]["median"]
        learnt = [", ".join(f"{run[key]:{form}}" for run in found["learning"][name]) for key, form in LEARNT.items()]
        rows.append([name, f"{rate:.1f}", *learnt])
    return f"""## Batches of one length

With `crop_to_frames` 16 an epoch of lengths like LibriSpeech's, 87.5 s a batch, is this:

{table(["batches", "", "shapes", "with a mask", "padding", "audio kept"], plans)}

The tiny HuBERT with batches of {settings["batch_seconds"]:g} s of real speech, cut to at most
{settings["max_seconds"]:g} s: audio in a second of CPU time, and what {settings["updates"]} updates give on the same
validation rows, for each of {settings["seeds"]} seeds. {on(found["machine"])}.

{table(["batches", "seconds in a second", "hours seen", "CPU seconds", "loss", "accuracy"], rows)}"""


def transcription(found: dict) -> str:
    peers = ("pipeline in batches", "pipeline row by row")
    rows = [
        [
            case["work"],
            *(f"{case['seconds'][name]['median'] / case['audio_seconds']:.3f}" for name in ("ours", *peers)),
            *(f"**{case['times_as_fast'][peer]:.2f}**" for peer in peers),
            *(f"{case['differing_characters'][peer]:.1%}" for peer in peers),
        ]
        for case in found["cases"]
    ]
    head = ["encoder", "ours", *peers, "times as fast", "as row by row", "other characters", "row by row"]
    settings = found["settings"]
    return f"""## Transcription

Seconds of CPU time for a second of audio, noise of 2 to {settings["longest_seconds"]} s, with a CTC head on random
weights: `transcribe`, and transformers' pipeline with {settings["batch_rows"]} rows a batch and with one. The logits of
a row alone differ by at most {max(case["largest_difference"] for case in found["cases"]):.0e}, by which random weights
may choose another character; in a batch of the pipeline padding reaches the first norm.
{on(found["machine"], "transformers")}.

{table(head, rows)}"""


def scaling(found: dict) -> str:
    rows = [
        [
            case["by"],
            case["work"],
            f"{case['parameters'] / 1e6:.1f}",
            *(f"{milliseconds(case['seconds'][kind])}" for kind in ("CPU", "wall")),
        ]
        for case in found["cases"]
    ]
    head = ["what grows", "processes x rows x length", "million parameters", "CPU, ms", "wall, ms"]
    return f"""## How it grows

Milliseconds for a second of audio, in a step of {found["settings"]["model"]} in float32, one thread for each process:
CPU time of all processes, and wall time on a machine that others use too. Two processes exchange gradients by gloo.
Rounds: {found["settings"]["rounds"]}. {on(found["machine"])}.

{table(head, rows)}

![Time for a second of audio against processes, seconds of a batch and parameters](images/scaling.png)"""


def traffic(found: dict) -> str:
    kinds = ("gigaflop", "moved_megabytes", "kept_megabytes")
    names = {"gigaflop": "GFLOP", "moved_megabytes": "MB moved", "kept_megabytes": "MB kept"}
    head = ["part", *(f"{size}: {names[kind]}" for size in found["sizes"] for kind in kinds)]
    parts = list(next(iter(found["sizes"].values())))
    rows = [
        [part, *(f"{of_parts[part][kind]:,.1f}" for of_parts in found["sizes"].values() for kind in kinds)]
        for part in parts
    ]
    totals = [
        f"**{sum(each[kind] for each in of_parts.values()):,.1f}**"
        for of_parts in found["sizes"].values()
        for kind in kinds
    ]
    settings = found["settings"]
    return f"""## Products and bytes, part by part

For a second of audio, in forward and backward of {settings["model"]} in {settings["precision"]}: operations of matrix
products and convolutions, bytes that all operators read and write, as if no cache kept any, and what the forward pass
keeps for the backward pass. Counted on {settings["seconds"]:g} s, and not timed: {found["machine"]["processor"]}, torch
{found["machine"]["torch"]}.

{table(head, [*rows, ["**together**", *totals]])}"""


def operators(found: dict) -> str:
    cases = found["cases"]
    kinds = list(cases[0]["shares"])
    rows = [
        [
            case["work"],
            f"{case['share_of_product']:.0%}",
            f"**{case['share_in_products']:.0%}**",
            *(f"{case['shares'][kind]:.0%}" for kind in kinds),
        ]
        for case in cases
    ]
    return f"""## Where the time of a step goes

A step of {found["settings"]["model"]}, operator by operator: which share of the rate of a large matrix product it
reaches, which it would reach if nothing but convolutions and matrix products took time, and what its time is spent on.
{on(found["machine"])}.

{table(["step", "share", "of its products alone", *kinds], rows)}

*Of its products alone* is a limit: what lies between the products moves memory and has no share in the count of
operations. The gradients of the conv encoder's weights, sums over thousands of frames into small matrices, and the
small matrices of the tiny size keep the products themselves from the full rate."""


def against(found: dict) -> str:
    rows = [
        [
            f"{case['objective']} {case['size']}, {case['audio']}",
            case["precision"],
            milliseconds(case["seconds"]["ours"]),
            milliseconds(case["seconds"][case["beside"]]),
            f"**{case['times_as_fast']:.2f}**",
        ]
        for case in found["cases"]
    ]
    earlier = found["cases"][0]["beside"]
    return f"""## Beside earlier code

The same steps with the code of revision {earlier}, from the same weights, with the same loss. The goal is 1.4 times in
float32 and 1.8 times in bf16. {on(found["machine"])}.

{table(["step", "precision", "today, ms", f"{earlier}, ms", "times as fast"], rows)}"""


SECTIONS: dict[str, Callable[[dict], str]] = {
    "operators": operators,
    "against": against,
    "kmeans": kmeans,
    "mfcc": mfcc,
    "labelling": labelling,
    "loading": loading,
    "memory": memory,
    "equal_lengths": equal_lengths,
    "transcription": transcription,
    "scaling": scaling,
    "traffic": traffic,
}


def sections(measured: Path) -> str:
    """All parts that have been measured, one after the other."""
    files = {name: measured / f"{name}.json" for name in SECTIONS}
    made = [SECTIONS[name](json.loads(file.read_text())) for name, file in files.items() if file.exists()]
    return "\n\n".join(made)


def draw_growth(measured: Path, picture: Path):
    """k-means: time against the number of frames, and of clusters."""
    import matplotlib.pyplot as plt

    cases = json.loads((measured / "kmeans.json").read_text())["cases"]
    clusters = cases[0]["clusters"]
    frames = cases[-1]["frames"]
    chosen = {
        "frames": [case for case in cases if case["clusters"] == clusters],
        "clusters": [case for case in cases if case["frames"] == frames],
    }
    chosen = {by: some for by, some in chosen.items() if len(some) > 1}
    figure, axes = plt.subplots(1, len(chosen), figsize=(4.5 * len(chosen), 3.2), layout="constrained", squeeze=False)
    for axis, (by, some) in zip(axes[0], chosen.items()):
        some = sorted(some, key=lambda case: case[by])
        for name in some[0]["seconds"]:
            seconds = [case["seconds"][name]["median"] for case in some]
            axis.plot([case[by] for case in some], seconds, marker="o", label=name)
        axis.set(xlabel=by, ylabel="CPU seconds", xscale="log", yscale="log")
        axis.set_title(f"{clusters} clusters" if by == "frames" else f"{frames:,} frames")
        axis.grid(alpha=0.3)
    axes[0, 0].legend()
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def draw_scaling(measured: Path, picture: Path):
    """A training step: CPU and wall time for a second of audio, against all that may grow."""
    import matplotlib.pyplot as plt

    cases = json.loads((measured / "scaling.json").read_text())["cases"]
    kinds = list(dict.fromkeys(case["by"] for case in cases))
    figure, axes = plt.subplots(1, len(kinds), figsize=(4.5 * len(kinds), 3.2), layout="constrained", squeeze=False)
    for axis, kind in zip(axes[0], kinds):
        some = [case for case in cases if case["by"] == kind]
        for time in ("CPU", "wall"):
            seconds = [case["seconds"][time]["median"] for case in some]
            axis.plot([case["value"] for case in some], seconds, marker="o", label=time)
        axis.set(xlabel=kind, ylabel="seconds for a second of audio")
        axis.set(**dict(xscale="log", yscale="log") if kind == "parameters" else dict(ylim=(0, None)))
        axis.grid(alpha=0.3)
    axes[0, 0].legend()
    figure.savefig(picture, dpi=110)
    plt.close(figure)
