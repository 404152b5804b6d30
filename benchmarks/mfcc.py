"""MFCC against torchaudio's Kaldi port with two rounds of deltas: CPU time on one thread.

    python benchmarks/mfcc.py

Speech comes from the folder that the environment variable SPEECH_CORPORA names; without it, noise is used.
"""

import os
import platform
import random
import statistics
import time
from pathlib import Path

import pyarrow.parquet
import torch
import torchaudio

from hf_ssl_speech.audio import SAMPLE_RATE, read_audio
from hf_ssl_speech.data.mfcc import mfcc_features

SECONDS = (2, 5, 15)
ROUNDS = 15


def torchaudio_features(waveform: torch.Tensor) -> torch.Tensor:
    mfcc = torchaudio.compliance.kaldi.mfcc(waveform[None], sample_frequency=SAMPLE_RATE, use_energy=False).T
    deltas = torchaudio.functional.compute_deltas(mfcc)
    return torch.cat([mfcc, deltas, torchaudio.functional.compute_deltas(deltas)]).T.contiguous()


def audio() -> torch.Tensor:
    """A minute of speech, or of noise."""
    corpora = os.environ.get("SPEECH_CORPORA")
    if not corpora:
        return 0.1 * torch.randn(60 * SAMPLE_RATE)
    shard = next(Path(corpora, "librispeech-mini").glob("validation-*"))
    rows = pyarrow.parquet.read_table(shard, columns=["audio"])["audio"][:10].to_pylist()
    return torch.cat([torch.from_numpy(read_audio(row)) for row in rows])


def main() -> None:
    torch.set_num_threads(1)
    waveforms = {seconds: audio()[: seconds * SAMPLE_RATE] for seconds in SECONDS}
    variants = {"ours": mfcc_features, "torchaudio": torchaudio_features}
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, CPU time")
    for seconds, waveform in waveforms.items():
        difference = (mfcc_features(waveform) - torchaudio_features(waveform)).abs().max().item()
        assert difference < 1e-4, f"features differ by {difference}"
        calls = 200 // seconds
        times: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(3 + ROUNDS):
            for name in random.sample(list(variants), len(variants)):
                start = time.process_time()
                for _ in range(calls):
                    variants[name](waveform)
                times[name].append((time.process_time() - start) / calls)
        ours, theirs = (values[3:] for values in times.values())  # the first rounds warm up
        ratio = statistics.median(their / our for our, their in zip(ours, theirs))
        print(
            f"{seconds:3d} s of audio: ours {statistics.median(ours) * 1e3:.2f} ms ({min(ours) * 1e3:.2f} to "
            f"{max(ours) * 1e3:.2f}), torchaudio {statistics.median(theirs) * 1e3:.2f} ms ({min(theirs) * 1e3:.2f} to "
            f"{max(theirs) * 1e3:.2f}): {ratio:.2f} times as fast, largest difference {difference:.1e}"
        )


if __name__ == "__main__":
    main()
