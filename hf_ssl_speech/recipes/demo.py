"""What the demo shows at the end: a table, three utterances with both transcripts, a picture, and the next steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.preparing import prepare_speech, row_waveform
from hf_ssl_speech.data.sources import load_speech
from hf_ssl_speech.files import read_json
from hf_ssl_speech.markdown import table
from hf_ssl_speech.recipes.label_efficiency_report import RESULTS_FILE
from hf_ssl_speech.records import in_percent, read_record
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.pictures import draw_unit_strip

PICTURE_FILE = "demo.png"
UTTERANCES = 3
SECONDS_DRAWN = 4.0


def conclude(folder: str | os.PathLike) -> str:
    """Draws the picture and writes the text that the demo ends with.

    Args:
        folder: The demo's folder, with `speech`, `units` and `recognisers`.
    Returns:
        The table, the transcripts, and the commands that transcribe the user's own recording.
    """
    folder = Path(folder)
    results = read_json(folder / "recognisers" / RESULTS_FILE, "the results of label efficiency")
    points = {point["start"]: point for point in results["curves"]}
    cells = {cell["start"]: folder / "recognisers" / cell["folder"] for cell in results["cells"]}
    heard = {start: read_record(cell)["test"] for start, cell in cells.items()}
    draw(folder, points, results["data"]["test"]["source"], next(iter(heard.values()))["references"][0])
    minutes = points["pretrained"]["minutes_used"]
    rows = [
        [start, f"{minutes:.1f}", *(in_percent(point[measure]) for measure in ("wer", "cer"))]
        for start, point in points.items()
    ]
    parts = [
        table(["recogniser", "minutes of transcripts", "WER, %", "CER, %"], rows, aligned=True),
        f"Scored on {results['data']['test']['rows']} utterances of voices that nothing was learnt from.",
        *transcripts(heard),
        f"The picture is {folder / PICTURE_FILE}",
        how_to_go_on(cells["pretrained"]),
    ]
    return "\n\n".join(parts)


def transcripts(heard: dict[str, dict[str, Any]]) -> list[str]:
    """The first utterances: what was said, and what each recogniser heard."""
    references = next(iter(heard.values()))["references"]
    width = max(map(len, heard)) + 2
    return [
        "\n".join(
            [
                f"{'said':<{width}}{reference}",
                *(f"{start:<{width}}{test['heard'][place] or '(nothing)'}" for start, test in heard.items()),
            ]
        )
        for place, reference in enumerate(references[:UTTERANCES])
    ]


def how_to_go_on(recogniser: Path) -> str:
    """The commands that transcribe the user's own recording."""
    return f"""\
Your own recording of some English digits, in the terminal and in Python:

    hf-ssl-speech transcribe {recogniser} my_recording.wav

    import hf_ssl_speech, transformers
    recognise = transformers.pipeline("automatic-speech-recognition", {str(recogniser)!r})
    print(recognise(hf_ssl_speech.read_audio("my_recording.wav"))["text"])"""


def draw(folder: Path, points: dict[str, dict[str, Any]], source: str, said: str):
    """Draws the units of the first utterance of the source under its waveform, and both word error rates."""
    rows, _ = prepare_speech(load_speech([source], split="validation"), min_seconds=0)
    units = KMeansUnits.from_pretrained(folder / "units")
    waveform, hop_seconds = row_waveform(rows[0]), units.features.times["hop_seconds"]
    labels = units.predict_rows([rows[0]], units.open_features(device="cpu"))[0]
    figure = Figure(figsize=(12, 5), layout="constrained")
    top, strip, bottom = figure.subplots(3, 1, height_ratios=[3, 1, 2])
    end = min(SECONDS_DRAWN, len(waveform) / SAMPLE_RATE)
    top.plot(np.arange(len(waveform)) / SAMPLE_RATE, waveform, lw=0.5, color="0.3")
    top.set(xlim=(0, end), yticks=[], title=f"“{said}”")
    top.tick_params(labelbottom=False)
    strip.set(xlim=(0, end), xlabel="seconds")
    draw_unit_strip(strip, "units", labels, hop_seconds)
    _draw_bars(bottom, points)
    figure.savefig(folder / PICTURE_FILE, dpi=110)


def _draw_bars(axis: Axes, points: dict[str, dict[str, Any]]):
    """Word error rates with their intervals."""
    for place, point in enumerate(points.values()):
        rate = {name: 100 * point["wer"][name] for name in ("value", "low", "high")}
        reach = np.maximum(0, [[rate["value"] - rate["low"]], [rate["high"] - rate["value"]]])
        axis.barh(place, rate["value"], 0.6, color=f"C{place}", alpha=0.7)
        axis.errorbar(rate["value"], place, xerr=reach, ecolor="0.2", capsize=3, fmt="none")
        axis.annotate(f"{rate['value']:.0f}%", (rate["high"], place), (5, 0), textcoords="offset points", va="center")
    minutes = next(iter(points.values()))["minutes_used"]
    axis.set_yticks(range(len(points)), list(points))
    axis.set(xlabel=f"word error rate after {minutes:.1f} minutes of transcripts, %", xlim=(0, None))
    axis.invert_yaxis()
