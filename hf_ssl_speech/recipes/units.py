"""Units from speech: fitted, measured against phones, drawn and recorded."""

from __future__ import annotations

import logging
import time
from itertools import chain
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from hf_ssl_speech.data.features import ROWS_AT_ONCE, FeatureSource, HiddenFeatures, MfccFeatures, rows_of
from hf_ssl_speech.recipes.arguments import UnitArguments
from hf_ssl_speech.recipes.inputs import SpeechDataArguments
from hf_ssl_speech.recipes.splits import hold_out, load_split, repeats_of
from hf_ssl_speech.recipes.stages import is_complete
from hf_ssl_speech.records import new_record, write_record
from hf_ssl_speech.training.precision import encoder_dtype
from hf_ssl_speech.units.abx import abx_error, import_fastabx
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.labelling import add_units
from hf_ssl_speech.units.phones import check_phone_column
from hf_ssl_speech.units.pictures import draw_phone_unit_matrix, draw_units
from hf_ssl_speech.units.quality import UnitQuality, phones_to_frames

logger = logging.getLogger(__name__)


def make_units(data_args: SpeechDataArguments, args: UnitArguments, state: PartialState):
    """Fits, measures, draws and saves; existing units are not changed.

    Raises:
        ValueError: If the folder holds other units, the data can't be used, or the data lacks columns that ABX needs.
    """
    # Data: rows that can't be used are named, counted and left out.
    train = load_split("train", data_args, args)
    validation = load_split(
        "validation", data_args, args, keep=["phones", "speaker"] if args.abx else ["phones"], beside=train
    )
    train, validation = hold_out(train, validation, data_args)
    facts = {"train": train.facts} | ({"validation": validation.facts} if validation.facts else {})
    if args.abx:
        check_abx(validation.rows)
    if "validation" in facts:
        facts["validation"] |= check_phone_column(validation.rows, args.silence)

    # Units: every process computes the features of its share of the rows.
    if args.encoder:
        source = HiddenFeatures.from_pretrained(
            args.encoder,
            args.layer,
            center=args.center,
            device=state.device,
            batch_seconds=args.batch_seconds,
            autocast_dtype=encoder_dtype(args.bf16, state.device),
        )
    else:
        source = MfccFeatures(center=args.center, device=state.device)
    identity = identify(source, facts, args)
    if is_complete(args.output_dir, identity):
        logger.info(f"The units in {args.output_dir} are complete")
        return
    started = time.perf_counter()
    units = KMeansUnits.fit(
        train.rows,
        source,
        args.num_units,
        seed=args.seed,
        share=args.kmeans_share,
        memory_gb=args.memory_gb,
        restarts=args.restarts,
        repeats=repeats_of(train.rows, args),
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


def identify(source: FeatureSource, facts: dict[str, Any], args: UnitArguments) -> dict[str, Any]:
    """All settings that decide the units and their figures; a folder with the same settings is complete."""
    features = source.description
    return {
        "stage": "units",
        "features": {name: getattr(features, name) for name in ("kind", "layer", "center", "weights_hash")},
        **{name: getattr(args, name) for name in ("num_units", "kmeans_share", "restarts", "seed", "abx")},
        **{name: getattr(args, name) for name in ("weights", "mix_by") if getattr(args, name)},
        **({"silence": sorted(args.silence)} if args.silence else {}),
        "data": {split: found["fingerprint"] for split, found in facts.items()},
    }


def check_abx(dataset: Dataset | None):
    """Raises a ValueError before anything is fitted if the data lacks columns that ABX needs."""
    import_fastabx()
    missing = {"phones", "speaker"}.difference(dataset.column_names if dataset else [])
    if missing:
        raise ValueError(
            "--abx True needs --validation_data with the columns `phones` and `speaker`, but there is no "
            f"{' and no '.join(sorted(missing))}."
        )


def measure(
    units: KMeansUnits, source: FeatureSource, dataset: Dataset, args: UnitArguments
) -> dict[str, float] | None:
    """How well the units match the phones of validation rows, with pictures; None if there are no phones."""
    folder = Path(args.output_dir)
    phones = dataset["phones"] if "phones" in dataset.column_names else []
    aligned = [row for row, row_phones in enumerate(phones) if row_phones]
    if not aligned:
        logger.info("The validation data has no `phones`, so the units' quality is not measured.")
        return None
    labelled = add_units(dataset.select(aligned), units, source=source)
    predictions, settings = list(labelled["units"]), {**units.features.times, "silence": args.silence}
    references = [
        phones_to_frames(phones, len(row), **settings) for phones, row in zip(labelled["phones"], predictions)
    ]
    quality = UnitQuality().compute(predictions=predictions, references=references, num_clusters=units.num_units)
    if args.abx:
        quality |= measure_abx(units, source, labelled, seed=args.seed, **settings)
    row = labelled[0]
    draw_units(row, row["units"], row["phones"], folder / "units.png", hop_seconds=settings["hop_seconds"])
    draw_phone_unit_matrix(
        list(chain.from_iterable(predictions)), list(chain.from_iterable(references)), folder / "phones.png"
    )
    return quality


def measure_abx(units: KMeansUnits, source: FeatureSource, labelled: Dataset, **settings: Any) -> dict[str, float]:
    """How well the features discriminate phones, and how well the centroids of each frame's unit do."""
    features = [frames for batch in labelled.iter(ROWS_AT_ONCE) for frames in source.features(rows_of(batch))]
    centroids = [units.centroids[row] for row in labelled["units"]]
    found = {}
    for name, frames in {"features": features, "units": centroids}.items():
        errors = abx_error(frames, labelled["phones"], labelled["speaker"], **settings)
        measured = [speakers for speakers in ("within", "across") if errors[speakers] is not None]
        found |= {f"abx_{speakers}_{name}": errors[speakers] for speakers in measured}
    return found


def describe(units: KMeansUnits, quality: dict[str, float] | None):
    """Prints the results as a table."""
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
