"""Pictures of units: along an utterance, and beside phones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.units.phones import is_silence
from hf_ssl_speech.units.quality import phone_normalized_mutual_information

# 25 ms windows every 5 ms.
FFT_SAMPLES, WINDOW_SAMPLES, HOP_SAMPLES = 512, 400, 80
DECIBELS_SHOWN = 70
# The share of a strip's width that a character takes.
CHARACTER_SHARE = 0.0065


def draw_units(
    row: Mapping[str, Any],
    units: ArrayLike | Mapping[str, ArrayLike],
    phones: Sequence[Mapping[str, Any]],
    path: str | os.PathLike,
    *,
    start: float = 0.0,
    seconds: float = 4.0,
    hop_seconds: float = 0.02,
):
    """Draws a spectrogram, the units under it, coloured by unit, and the phones under these.

    Args:
        row: A prepared row; `name` goes into the title.
        units: Its units, `(frames,)`, or those of several unit sets by name, drawn one below the other.
        phones: `{"phone", "start", "end"}` in seconds; empty where there are none.
        path: The PNG file to write.
        start: Where the picture begins, in seconds.
        seconds: Length of the part that is drawn.
        hop_seconds: Time from one unit to the next.
    """
    waveform = row_waveform(row)
    sets = units if isinstance(units, Mapping) else {"units": units}
    end = min(start + seconds, len(waveform) / SAMPLE_RATE)
    heights = [8, *[1] * len(sets), 1]
    figure, (top, *strips, bottom) = plt.subplots(
        len(heights), 1, figsize=(14, sum(heights) / 2), sharex=True, layout="constrained", height_ratios=heights
    )
    num_frames = len(next(iter(sets.values())))
    top.set(xlim=(start, end), title=f"{row['name']}, {num_frames:,} frames in all")
    _draw_spectrogram(top, waveform)
    for strip, (name, each) in zip(strips, sets.items()):
        draw_unit_strip(strip, f"{name}:\n{len(np.unique(each))} different", each, hop_seconds)
    phone_runs = [(phone["start"], phone["end"], phone["phone"]) for phone in phones]
    _draw_strip(bottom, "phones", [(*run, "0.95" if is_silence(run[-1]) else "0.8") for run in phone_runs])
    bottom.set_xlabel("seconds")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_unit_strip(axis: Axes, label: str, units: ArrayLike, hop_seconds: float):
    """Draws a coloured box for each run of equal units, as far as the axis reaches.

    Args:
        axis: Where to draw; its x-axis is in seconds.
        label: The text on the left.
        units: Unit of each frame, `(frames,)`.
        hop_seconds: Time from one unit to the next.
    """
    units = np.asarray(units)
    changes = np.flatnonzero(np.diff(units, prepend=-1, append=-1)).tolist()
    runs = [(left * hop_seconds, right * hop_seconds, int(units[left])) for left, right in pairwise(changes)]
    _draw_strip(axis, label, [(*run, _unit_color(run[-1])) for run in runs])


def draw_phone_unit_matrix(units: ArrayLike, phones: Sequence[str], path: str | os.PathLike):
    """Draws P(phone | unit): how well a unit determines the phone (HuBERT, "Metrics of Target Quality").

    Phones are sorted by frequency and units by the phone they mostly stand for, so that good units make a staircase.

    Args:
        units: Unit of each frame, `(frames,)`.
        phones: Phone of each frame.
        path: The PNG file to write.
    """
    names, phone_numbers, frequencies = np.unique(np.asarray(phones), return_inverse=True, return_counts=True)
    unit_numbers, unit_places = np.unique(np.asarray(units), return_inverse=True)
    counts = np.zeros((len(names), len(unit_numbers)))
    np.add.at(counts, (phone_numbers, unit_places), 1)
    by_frequency = np.argsort(-frequencies, kind="stable")
    matrix = (counts / counts.sum(0))[by_frequency]
    matrix = matrix[:, np.lexsort((-matrix.max(0), matrix.argmax(0)))]

    figure, axis = plt.subplots(figsize=(12, 2 + 0.16 * len(names)), layout="constrained")
    image = axis.imshow(matrix, aspect="auto", cmap="magma_r", vmin=0, vmax=1, interpolation="nearest")
    axis.set_yticks(range(len(names)), names[by_frequency], fontsize=8)
    pnmi = phone_normalized_mutual_information(units, phones)
    axis.set(
        title=f"{len(unit_numbers)} units and {len(names)} phones in {len(phone_numbers):,} frames: PNMI {pnmi:.3f}",
        xlabel="units, by the phone they mostly mean",
        ylabel="phones, the most frequent first",
        xticks=[],
    )
    figure.colorbar(image, label="P(phone | unit)", pad=0.01)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_spectrogram(axis: Axes, waveform: np.ndarray):
    spectrum = torch.stft(
        torch.from_numpy(waveform), FFT_SAMPLES, HOP_SAMPLES, WINDOW_SAMPLES, torch.hann_window(WINDOW_SAMPLES),
        return_complex=True,
    )  # fmt: skip
    decibels = 20 * spectrum.abs().clamp_min(1e-7).log10().numpy()
    extent = (0, decibels.shape[1] * HOP_SAMPLES / SAMPLE_RATE, 0, SAMPLE_RATE / 2000)
    loudest = decibels.max()
    axis.imshow(
        decibels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=loudest - DECIBELS_SHOWN,
        vmax=loudest,
    )  # fmt: skip
    axis.set_ylabel("kHz")


def _draw_strip(axis: Axes, label: str, runs: Sequence[tuple[float, float, Any, Any]]):
    """Coloured boxes `(start, end, text, color)` in a row, with their texts where there is room."""
    start, end = axis.get_xlim()
    character_seconds = CHARACTER_SHARE * (end - start)
    for left, right, text, color in runs:
        left, right = max(left, start), min(right, end)
        if left < right:
            axis.add_patch(Rectangle((left, 0), right - left, 1, facecolor=color, edgecolor="white", linewidth=0.8))
        if right - left > character_seconds * len(str(text)):
            axis.text((left + right) / 2, 0.47, text, ha="center", va="center", fontsize=8)
    axis.set(ylim=(0, 1), yticks=[])
    axis.set_ylabel(label, rotation=0, ha="right", va="center")


def _unit_color(unit: int) -> np.ndarray:
    """A light colour for each unit. Hues go by the golden ratio, so that neighbouring numbers look different."""
    return hsv_to_rgb((unit * 0.618034 % 1, 0.3 + 0.2 * (unit % 3 == 0), 0.95))
