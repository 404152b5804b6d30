"""Makes the explorer's page from a HuBERT run, its units, and speech with phones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from datasets import Dataset
from torch import Tensor

from hf_ssl_speech.audio import INT16_SCALE, SAMPLE_RATE, to_int16
from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.data.features import HiddenFeatures, open_features
from hf_ssl_speech.data.preparing import prepare_speech, row_waveform
from hf_ssl_speech.data.sources import load_speech
from hf_ssl_speech.explorer.adapters import Letters, letters_facts, load_letters
from hf_ssl_speech.explorer.contrast import contrast_view
from hf_ssl_speech.explorer.few_labels import label_curve
from hf_ssl_speech.explorer.measures import (
    MAP_METHOD,
    Measured,
    fitted_sets,
    frame_map,
    map_places,
    measure_rows,
    stage,
)
from hf_ssl_speech.explorer.page_models import Context, Frames, write_models, write_packed
from hf_ssl_speech.explorer.runs import load_pretraining, run_facts
from hf_ssl_speech.models.configuration import SSLHubertConfig
from hf_ssl_speech.models.pretraining import SSLHubertForPreTraining
from hf_ssl_speech.records import read_record
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.layers import first_hours

SIZES = (50, 100, 200, 500)
CLIPS = 8
SECONDS = (3.0, 5.0)  # of the utterance: long enough for words, short enough to run again at each step of a slider
MAP_POINTS = 500
MAP_SECONDS = 0.2  # of sound around each point of the map
REFERENCE_EVERY = 25  # frames
HALF_A_WINDOW = 0.0125  # seconds from a frame's start to its middle
MAP_COMPRESSION = 0.95  # of Opus: 18 kbit/s
WEB = ("index.html", "page.css", "page.js", "page.js.LEGAL.txt", "ort.mjs", "ort.wasm.zst")


@dataclass(frozen=True)
class PageSettings:
    """What a page is made from.

    Attributes:
        run: Folder of a HuBERT pretraining.
        units: Folders of unit sets in the order of the iterations; the last one holds the units that the run predicts.
        train_data, validation_data: Speech with phones; the page's units are fitted on the first, and all figures and
            all audio come from the second.
        output_dir: The folder to write.
        credit: Source and licence of the audio, to be shown.
        label_efficiency: Folder of a label efficiency that started from the run; None for a page without it.
        wav2vec2: Folder of a wav2vec 2.0 pretraining; None for a page without it.
        collapsed: Folder of a wav2vec 2.0 pretraining whose codebook collapsed, to be shown beside the other.
        recognizer: Folder of a recogniser that was fine-tuned from the run with LoRA; None for a page without it.
        layer: The layer that the page's units are made of; by default three quarters of the way up.
        hours: Hours of speech to fit on, and to measure on.
        seed: Of all that is chosen at random.
    """

    run: str
    units: Sequence[str]
    train_data: Sequence[str]
    validation_data: Sequence[str]
    output_dir: str
    credit: str
    label_efficiency: str | None = None
    wav2vec2: str | None = None
    collapsed: str | None = None
    recognizer: str | None = None
    layer: int | None = None
    hours: float = 0.5
    seed: int = 0


def make_page(settings: PageSettings) -> Path:
    """Writes the folder; any static server serves it.

    Raises:
        ValueError: If the run is no HuBERT pretraining, its units are missing or others, or no row has phones.
        ImportError: If the extra `onnx` is missing.
    """
    model = load_hubert(settings.run)
    sets = load_units(settings.units, model.config)
    train, validation = (
        with_phones(source, settings.hours, settings.seed) for source in (settings.train_data, settings.validation_data)
    )
    folder = Path(settings.output_dir)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    normalize = bool(feature_extractor_for(model.config, settings.run).do_normalize)
    letters = settings.recognizer and load_letters(settings.recognizer, model, normalize)
    few_labels = settings.label_efficiency and label_curve(settings.label_efficiency)
    chosen = choose_utterance(validation)
    contrast = settings.wav2vec2 and contrast_view(
        settings.wav2vec2, settings.collapsed, validation, chosen, settings.seed
    )
    layer = max(1, model.config.num_hidden_layers * 3 // 4) if settings.layer is None else settings.layer
    source = HiddenFeatures(model, layer, normalize=normalize, center=True, encoder=settings.run)
    measured = measure_rows(validation, source)
    sizes = [size for size in SIZES if size <= sum(map(len, measured.features))]
    fitted = fitted_sets(measure_rows(train, source).all_features, measured, sizes, settings.seed)
    places = map_places(measured, MAP_POINTS, settings.seed)
    stages = [
        stage(Path(name).name, units, measure_rows(validation, open_features(units.features)), places, settings.seed)
        for name, units in zip(settings.units, sets)
    ]
    own_map = frame_map(measured, places, settings.seed)
    last = {key: value for key, value in fitted[str(sizes[-1])].items() if key != "rows"}
    own = {"name": Path(settings.run).name, "features": str(source.description), "num_units": sizes[-1], "map": own_map}
    content = {
        "run": run_facts(settings.run, read_record(settings.run)),
        "conv": [list(layer) for layer in model.config.conv_layers],
        "credit": settings.credit,
        "utterance": utterance(validation[chosen], folder),
        "reference": reference(model, letters, validation[chosen], normalize),
        "masking": masking(model.config, sets[-1], validation, chosen),
        "units": {"layer": layer, "sets": fitted, "clips": clips(validation, measured, chosen, folder)},
        "few_labels": few_labels,
        "contrast": contrast,
        "iterations": {
            "method": MAP_METHOD,
            "sound": map_sound(validation, places, folder),
            "stages": [*stages, own | last],
        },
        "recognizer": settings.recognizer and letters_facts(settings.recognizer),
    }
    keep_clips_only(content["units"])
    compact = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    write_packed(folder / "data.json.gz", compact)
    write_models(model, folder, normalize=normalize, letters=letters)
    copy_web(folder)
    return folder


def load_hubert(run: str) -> SSLHubertForPreTraining:
    """The model of a run, with its head.

    Raises:
        ValueError: If the folder holds none.
    """
    advice = "give the folder that `hf-ssl-speech pretrain` or `hubert` wrote with --units."
    return load_pretraining(run, SSLHubertForPreTraining, advice)


def load_units(folders: Sequence[str], config: SSLHubertConfig) -> list[KMeansUnits]:
    """The unit sets.

    Raises:
        ValueError: If there is none, or the last has another number of units than the run predicts.
    """
    if not folders:
        raise ValueError("No units came: give --units with the folder of the units that the run was trained on.")
    sets = [KMeansUnits.from_pretrained(folder) for folder in folders]
    if sets[-1].num_units != config.num_units[0]:
        raise ValueError(
            f"{folders[-1]} has {sets[-1].num_units} units, but the run predicts {config.num_units[0]}: give last the "
            "units that it was trained on."
        )
    return sets


def with_phones(source: Sequence[str], hours: float, seed: int) -> Dataset:
    """Prepared rows with `text` and `phones`.

    Raises:
        ValueError: If there are no phones.
    """
    loaded = load_speech(source)
    if "phones" not in loaded.column_names:
        raise ValueError(
            f"{' '.join(source)} has no column `phones`, which units are shown beside: docs/units.md tells its form."
        )
    rows, _ = prepare_speech(loaded, min_seconds=0.5, keep=("text", "phones"))
    return first_hours(rows, hours, seed)


def choose_utterance(rows: Dataset) -> int:
    """The first row of a good length, else the shortest."""
    seconds = np.asarray(rows["num_samples"]) / SAMPLE_RATE
    fitting = np.flatnonzero((seconds >= SECONDS[0]) & (seconds <= SECONDS[1]))
    return int(fitting[0]) if len(fitting) else int(seconds.argmin())


def utterance(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The utterance that goes through all stages. 16-bit samples: page and PyTorch hear exactly the same."""
    soundfile.write(folder / "audio" / "utterance.wav", to_int16(row_waveform(row)), SAMPLE_RATE)
    return {"name": row["name"], "text": row["text"], "phones": row["phones"], "samples": row["num_samples"]}


@torch.no_grad()
def reference(
    model: SSLHubertForPreTraining, letters: Letters | None, row: dict[str, Any], normalize: bool
) -> dict[str, Any]:
    """What PyTorch computes with the runs' own weights for some frames of the utterance, which the page is held to:
    cosine similarities to all units where every third frame is hidden, and the recogniser's probabilities of tokens."""
    waveform = torch.from_numpy(to_int16(row_waveform(row)).astype(np.float32) / INT16_SCALE)[None]
    frames = Frames(model, normalize)(waveform)
    hidden = (torch.arange(frames.shape[1]) % 3 == 0).float()[None]
    logits, _ = Context(model)(frames, hidden)
    places = list(range(0, frames.shape[1], REFERENCE_EVERY))
    return {
        "frames": places,
        "temperature": model.config.unit_logits_temperature,
        "cosines": rounded(model.config.unit_logits_temperature * logits[0, places]),
        "tokens": letters and rounded(letters(frames)[0, places].softmax(-1)),
    }


def rounded(values: Tensor) -> list[list[float]]:
    """As short numbers."""
    return [[round(value, 6) for value in row] for row in values.tolist()]


def masking(config: SSLHubertConfig, units: KMeansUnits, rows: Dataset, chosen: int) -> dict[str, Any]:
    """The units that the run has to name in the utterance, and how training hides frames."""
    (targets,) = units.predict_rows([rows[chosen]], open_features(units.features))
    return {
        "targets": targets.tolist(),
        "num_units": units.num_units,
        "share": config.mask_time_prob,
        "length": config.mask_time_length,
        "min_spans": config.mask_time_min_masks,
    }


def clips(rows: Dataset, measured: Measured, chosen: int, folder: Path) -> list[dict[str, Any]]:
    """Other utterances to hear units in, as short files; the page's own utterance is the first."""
    seconds = np.asarray(rows["num_samples"]) / SAMPLE_RATE
    others = [int(place) for place in np.argsort(seconds, kind="stable") if place != chosen and seconds[place] >= 1.5]
    found = [
        {"row": chosen, "audio": "audio/utterance.wav", "text": rows[chosen]["text"], "phones": measured.phones[chosen]}
    ]
    for place in others[:CLIPS]:
        row = rows[place]
        name = f"audio/{len(found)}.ogg"
        soundfile.write(folder / name, row_waveform(row), SAMPLE_RATE, format="OGG", subtype="OPUS")
        found.append({"row": place, "audio": name, "text": row["text"], "phones": measured.phones[place]})
    return found


def map_sound(rows: Dataset, places: Sequence[tuple[int, float]], folder: Path) -> dict[str, Any]:
    """The sound around each point of the map, one after the other in one file."""
    length = round(MAP_SECONDS * SAMPLE_RATE)
    sound = np.zeros((len(places), length), dtype=np.float32)
    for row, points in groupby(enumerate(places), key=lambda point: point[1][0]):  # places come row by row
        waveform = row_waveform(rows[row])
        for point, (_, second) in points:
            first = max(0, round((second + HALF_A_WINDOW) * SAMPLE_RATE) - length // 2)
            part = waveform[first : first + length]
            sound[point, : len(part)] = part
    name = "audio/map.ogg"
    soundfile.write(
        folder / name, sound.ravel(), SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=MAP_COMPRESSION
    )
    return {"audio": name, "seconds": MAP_SECONDS}


def keep_clips_only(units: dict[str, Any]):
    """Leaves out the units of rows whose audio is not on the page."""
    for each in units["sets"].values():
        each["rows"] = [each["rows"][clip["row"]] for clip in units["clips"]]
    for clip in units["clips"]:
        del clip["row"]


def copy_web(folder: Path):
    """The page itself, which the wheel brings ready-made."""
    built = resources.files("hf_ssl_speech.explorer") / "web" / "built"
    for name in WEB:
        with resources.as_file(built / name) as file:
            shutil.copyfile(file, folder / name)
