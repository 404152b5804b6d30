"""Utterances of tones, whose phones are known."""

import io

import numpy as np
import soundfile
from datasets import Dataset

PITCHES = {"AA": 400.0, "IY": 900.0, "UW": 2000.0, "SIL": 0.0}


def tone_rows(num_rows: int, seed: int, phones: bool = True) -> Dataset:
    """Utterances of tones, one for each phone, with some noise."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(num_rows):
        names = generator.choice(list(PITCHES), size=12)
        times = np.arange(1600) / 16_000
        wave = np.concatenate([np.sin(2 * np.pi * PITCHES[name] * times) / 4 for name in names])
        wave += generator.normal(size=len(wave)) / 100
        file = io.BytesIO()
        soundfile.write(file, wave, 16_000, format="wav")
        row = {"id": f"{seed}-{index}", "audio": {"bytes": file.getvalue(), "path": None}}
        if phones:
            row["phones"] = [
                {"phone": name, "start": 0.1 * i, "end": 0.1 * (i + 1)} for i, name in enumerate(map(str, names))
            ]
        rows.append(row)
    return Dataset.from_list(rows)


def spoilt_rows(dataset: Dataset, silent: int, unreadable: int) -> Dataset:
    """The utterances as FLAC, but one of them silent and one damaged behind its header, as only decoding tells."""
    rows = list(dataset)
    for index, row in enumerate(rows):
        wave, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]))
        file = io.BytesIO()
        soundfile.write(file, np.zeros_like(wave) if index == silent else wave, rate, format="flac")
        encoded = bytearray(file.getvalue())
        if index == unreadable:
            half = len(encoded) // 2
            encoded[half:] = bytes(len(encoded) - half)
        row["audio"] = {"bytes": bytes(encoded), "path": None}
    return Dataset.from_list(rows)
