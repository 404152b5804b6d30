"""Makes the units that HuBERT learns to predict: k-means over MFCC, or over a layer of an encoder.

    accelerate launch examples/make_units.py --train_data speech --output_dir runs/units-mfcc
    accelerate launch examples/make_units.py --train_data speech --output_dir runs/units-2 --encoder runs/hubert-1 \\
        --layer 6 --num_units 500

Both run on a CPU too (`python examples/make_units.py ...`). Writes the unit set for `KMeansUnits.from_pretrained`,
`run.json` and, where `--validation_data` has phones, the units' quality and two pictures; with `--abx True` also how
well features and units tell phones apart (ABX, through fastabx; needs the column `speaker`). Units that are there
already are left as they are: asked for again, the script says so; asked for other units, it ends with an error.
"""

import logging
import sys
import time
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from accelerate import PartialState

from hf_ssl_speech import SpeechDataArguments, SpeechPreTrainingArguments
from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.features import ROWS_AT_ONCE, HiddenFeatures, MfccFeatures, rows_of
from hf_ssl_speech.recipes.splits import load_split
from hf_ssl_speech.recipes.stages import is_complete
from hf_ssl_speech.records import new_record, write_record
from hf_ssl_speech.training.arguments import parse_arguments, tidy_errors
from hf_ssl_speech.training.lock import hold
from hf_ssl_speech.units.abx import abx_error, import_fastabx
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.labelling import add_units
from hf_ssl_speech.units.phones import SILENCE_HELP, check_phone_column
from hf_ssl_speech.units.pictures import draw_phone_unit_matrix, draw_units
from hf_ssl_speech.units.quality import UnitQuality, phones_to_frames

logger = logging.getLogger("make_units")


@dataclass
class UnitArguments:
    """Which units are made."""

    output_dir: str = field(metadata={"help": "Folder for the unit set, its record and pictures."})
    encoder: str | None = field(default=None, metadata={"help": "Folder or Hub id of an encoder, instead of MFCC."})
    layer: int = field(default=6, metadata={"help": "The encoder's layer, counted from 1."})
    center: bool = field(
        default=False,
        metadata={
            "help": "Subtract each utterance's mean from its features, which tell less of speaker and channel then."
        },
    )
    num_units: int = field(
        default=100, metadata={"help": "Number of units; the paper takes 100 for MFCC and 500 for a layer."}
    )
    kmeans_share: float | None = field(
        default=None,
        metadata={"help": "Share of the utterances to fit units on (default: 0.1, or as much as makes 20 hours)."},
    )
    restarts: int = field(default=3, metadata={"help": "Number of starts of k-means; the best is kept."})
    seed: int = field(default=0, metadata={"help": "Seed for the choice of utterances and the starts of k-means."})
    min_seconds: float = field(default=1.0, metadata={"help": "Shorter audio is skipped, named and counted."})
    max_seconds: float = field(
        default=SpeechPreTrainingArguments.max_seconds,
        metadata={
            "help": "Recordings, which last more than 40 s and twice this, are cut at pauses into pieces of at most "
            "this length."
        },
    )
    batch_seconds: float | None = field(
        default=None, metadata={"help": "Seconds of audio in a batch for the encoder (default: 120, and 12 on a CPU)."}
    )
    silence: list[str] = field(default_factory=list, metadata={"help": SILENCE_HELP})
    abx: bool = field(
        default=False, metadata={"help": "Measure ABX on the validation data, which needs `phones` and `speaker`."}
    )


def main(argv):
    """Fits, measures, draws and saves."""
    data_args, args = parse_arguments(argv, SpeechDataArguments, UnitArguments)
    state = PartialState(cpu=not torch.accelerator.is_available())
    level = logging.INFO if state.is_main_process else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    hold(args.output_dir)

    # Data: rows that can't be used are named, counted and left out.
    train = load_split("train", data_args, args)
    validation = load_split(
        "validation", data_args, args, keep=["phones", "speaker"] if args.abx else ["phones"], beside=train
    )
    facts = {"train": train.facts} | ({"validation": validation.facts} if validation.facts else {})
    if args.abx:
        check_abx(validation.rows)
    if "validation" in facts:
        facts["validation"] |= check_phone_column(validation.rows, args.silence)

    # Units: every process computes the features of its share of the rows.
    if args.encoder:
        source = HiddenFeatures.from_pretrained(
            args.encoder, args.layer, center=args.center, device=state.device, batch_seconds=args.batch_seconds
        )
    else:
        source = MfccFeatures(center=args.center, device=state.device)
    identity = identify(source, facts, args)
    if is_complete(args.output_dir, identity):
        logger.info(f"The units in {args.output_dir} are complete")
        return
    started = time.perf_counter()
    units = KMeansUnits.fit(
        train.rows, source, args.num_units, seed=args.seed, share=args.kmeans_share, restarts=args.restarts
    )

    # Quality, record and pictures.
    if state.is_main_process:
        units.save_pretrained(args.output_dir)
        quality = measure(units, source, validation.rows, args) if validation.rows is not None else None
        record = new_record(
            "complete",
            identity,
            seconds=time.perf_counter() - started,
            device=state.device,
            processes=state.num_processes,
            units={"features": str(units.features), "num_units": units.num_units, **units.facts},
            data=facts,
            skipped=source.skipped,
            quality=quality,
        )
        write_record(record, args.output_dir)
        describe(units, quality)
        logger.info(f"The units, run.json and pictures are in {args.output_dir}")


def identify(source, facts, args):
    """All that decides the units and their figures: a folder that holds them is left as it is."""
    features = source.description
    return {
        "stage": "units",
        "features": {name: getattr(features, name) for name in ("kind", "layer", "center", "weights_hash")},
        **{name: getattr(args, name) for name in ("num_units", "kmeans_share", "restarts", "seed", "abx")},
        **({"silence": sorted(args.silence)} if args.silence else {}),
        "data": {split: found["fingerprint"] for split, found in facts.items()},
    }


def check_abx(dataset):
    """Says what ABX lacks before anything is fitted."""
    import_fastabx()
    missing = {"phones", "speaker"}.difference(dataset.column_names if dataset else [])
    if missing:
        raise ValueError(
            "--abx True needs --validation_data with the columns `phones` and `speaker`, but there is no "
            f"{' and no '.join(sorted(missing))}."
        )


def measure(units, source, dataset, args):
    """How well the units follow the phones of validation rows; the pictures beside. None if no phones are known."""
    folder = Path(args.output_dir)
    phones = dataset["phones"] if "phones" in dataset.column_names else []
    aligned = [row for row, row_phones in enumerate(phones) if row_phones]
    if not aligned:
        logger.info("The validation data has no `phones`, so the units' quality is not measured.")
        return None
    labelled = add_units(dataset.select(aligned), units, source=source)
    times = {
        "hop_seconds": 1 / units.features.frames_per_second,
        "window_seconds": units.features.window_samples / SAMPLE_RATE,
        "silence": args.silence,
    }
    predictions = list(labelled["units"])
    references = [phones_to_frames(phones, len(row), **times) for phones, row in zip(labelled["phones"], predictions)]
    quality = UnitQuality().compute(predictions=predictions, references=references, num_clusters=units.num_units)
    if args.abx:
        quality |= measure_abx(units, source, labelled, seed=args.seed, **times)
    row = labelled[0]
    draw_units(row, row["units"], row["phones"], folder / "units.png", hop_seconds=times["hop_seconds"])
    draw_phone_unit_matrix(
        list(chain.from_iterable(predictions)), list(chain.from_iterable(references)), folder / "phones.png"
    )
    return quality


def measure_abx(units, source, labelled, **settings):
    """How well the features tell phones apart, and how well what is left when each frame is its unit's centroid."""
    features = [frames for batch in labelled.iter(ROWS_AT_ONCE) for frames in source.features(rows_of(batch))]
    centroids = [units.centroids[row] for row in labelled["units"]]
    found = {}
    for name, frames in {"features": features, "units": centroids}.items():
        errors = abx_error(frames, labelled["phones"], labelled["speaker"], **settings)
        measured = [speakers for speakers in ("within", "across") if errors[speakers] is not None]
        found |= {f"abx_{speakers}_{name}": errors[speakers] for speakers in measured}
    return found


def describe(units, quality):
    """Prints what came out, as a table."""
    facts = units.facts
    lines = {
        "units": f"{units.num_units} of {units.features}",
        "fitted on": f"{facts['hours']:.2f} hours, {facts['utterances']:,} utterances, {facts['frames']:,} frames",
        "inertia per frame": f"{facts['inertia']:.4g} after {facts['iterations']} passes",
    }
    for name, value in (quality or {}).items():
        lines[name.replace("_", " ")] = f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
    for name, value in lines.items():
        logger.info(f"{name:>19}  {value}")


if __name__ == "__main__":
    with tidy_errors():
        main(sys.argv[1:])
