"""MFCC beside torchaudio's port of Kaldi with two rounds of deltas: CPU time of one thread.

    python benchmarks/mfcc.py --output_file docs/measured/mfcc.json

Speech comes from the folder that the environment variable SPEECH_CORPORA names; without it, noise is used.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet
import torch
import torchaudio
from measuring import arguments, machine, side_by_side, write_results

from hf_ssl_speech.audio import SAMPLE_RATE, read_audio
from hf_ssl_speech.data.mfcc import mfcc_features

SECONDS = (2, 5, 15)
LARGEST_DIFFERENCE = 1e-4


def torchaudio_features(waveform: torch.Tensor) -> torch.Tensor:
    mfcc = torchaudio.compliance.kaldi.mfcc(waveform[None], sample_frequency=SAMPLE_RATE, use_energy=False).T
    deltas = torchaudio.functional.compute_deltas(mfcc)
    return torch.cat([mfcc, deltas, torchaudio.functional.compute_deltas(deltas)]).T.contiguous()


def audio(corpora: str | None) -> torch.Tensor:
    """A minute of speech, or of noise."""
    if not corpora:
        return 0.1 * torch.randn(60 * SAMPLE_RATE)
    shard = next(Path(corpora, "librispeech-mini").glob("validation-*"))
    rows = pyarrow.parquet.read_table(shard, columns=["audio"])["audio"][:10].to_pylist()
    return torch.cat([torch.from_numpy(read_audio(row)) for row in rows])


def repeat(compute: Callable, waveform: torch.Tensor, calls: int):
    for _ in range(calls):
        compute(waveform)


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv, __doc__, 15)
    corpora = None if args.quick else os.environ.get("SPEECH_CORPORA")
    minute, cases = audio(corpora), []
    for seconds in SECONDS[:1] if args.quick else SECONDS:
        waveform, calls = minute[: seconds * SAMPLE_RATE], 2 if args.quick else 200 // seconds
        difference = (mfcc_features(waveform) - torchaudio_features(waveform)).abs().max().item()
        if difference > LARGEST_DIFFERENCE:
            raise SystemExit(f"The features differ by {difference:.1e}.")
        variants = {
            name: partial(repeat, compute, waveform, calls)
            for name, compute in {"ours": mfcc_features, "torchaudio": torchaudio_features}.items()
        }
        facts = {"largest_difference": difference, "audio_seconds": calls * seconds}
        cases.append(side_by_side(f"{calls} x {seconds} s", variants, args.rounds, **facts))
    settings = {"audio": "speech" if corpora else "noise"}
    write_results(args.output_file, {"machine": machine("torchaudio"), "settings": settings, "cases": cases})


if __name__ == "__main__":
    main()
