"""Resampling to 16 kHz by soxr, as `read_audio` does it, against torchaudio's default: CPU time on one thread.

    python benchmarks/resampling.py

Speech comes from the folder that the environment variable SPEECH_CORPORA names; without it, noise is used. It is
brought to each rate by soxr first. At 16,001 Hz and the like torchaudio takes up to a minute and 13 GB a second of
audio, so it is not run there.
"""

import os
import platform
import random
import statistics
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import soxr
import torch
import torchaudio

from hf_ssl_speech.audio import SAMPLE_RATE, read_audio

SECONDS = 15
USUAL_RATES = (8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000)
ODD_RATES = (16_001, 22_257, 44_101)
PASS_BAND = 0.6  # of the lower Nyquist frequency; torchaudio's short filter falls off above
ROUNDS = 15


def speech() -> np.ndarray:
    """Speech at 16 kHz, or noise."""
    corpora = os.environ.get("SPEECH_CORPORA")
    if not corpora:
        return (0.1 * np.random.default_rng(0).standard_normal(SECONDS * SAMPLE_RATE)).astype(np.float32)
    shard = next(Path(corpora, "librispeech-mini").glob("validation-*"))
    rows = pyarrow.parquet.read_table(shard, columns=["audio"])["audio"][:10].to_pylist()
    return np.concatenate([read_audio(row) for row in rows])[: SECONDS * SAMPLE_RATE]


def in_pass_band(waveform: np.ndarray, rate: int) -> np.ndarray:
    """The waveform, without what lies above `PASS_BAND`."""
    spectrum = np.fft.rfft(waveform)
    spectrum[np.fft.rfftfreq(len(waveform), 1 / rate) > PASS_BAND * min(rate, SAMPLE_RATE) / 2] = 0
    return np.fft.irfft(spectrum, len(waveform)).astype(np.float32)


def ours(waveform: np.ndarray, rate: int) -> np.ndarray:
    return read_audio({"array": waveform, "sampling_rate": rate})


def theirs(waveform: np.ndarray, rate: int) -> np.ndarray:
    return torchaudio.functional.resample(torch.from_numpy(waveform), rate, SAMPLE_RATE).numpy()


def difference(waveform: np.ndarray, rate: int) -> float:
    one, other = ours(waveform, rate), theirs(waveform, rate)
    shorter = min(len(one), len(other))
    return float(np.abs(one[:shorter] - other[:shorter])[200:-200].max())  # the ends ring


def main() -> None:
    torch.set_num_threads(1)
    source = speech()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, torch {torch.__version__}, soxr {soxr.__version__}, one thread, CPU time")
    for rate in USUAL_RATES + ODD_RATES:
        waveform = soxr.resample(source, SAMPLE_RATE, rate, "VHQ")
        variants = {"ours": ours, "torchaudio": theirs} if rate in USUAL_RATES else {"ours": ours}
        times: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(3 + ROUNDS):
            for name in random.sample(list(variants), len(variants)):
                start = time.process_time()
                variants[name](waveform, rate)
                times[name].append(time.process_time() - start)
        line = ", ".join(
            f"{name} {statistics.median(values[3:]) * 1e3:.2f} ms ({min(values[3:]) * 1e3:.2f} to "
            f"{max(values[3:]) * 1e3:.2f})"
            for name, values in times.items()
        )
        if "torchaudio" in times:
            ratio = statistics.median(their / our for our, their in zip(times["ours"][3:], times["torchaudio"][3:]))
            line += (
                f": {ratio:.2f} times as fast, largest difference {difference(waveform, rate):.1e}, in the pass band "
                f"{difference(in_pass_band(waveform, rate), rate):.1e}"
            )
        print(f"{rate:6,d} Hz, {SECONDS} s of audio: {line}")


if __name__ == "__main__":
    main()
