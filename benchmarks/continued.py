"""What continuing the pretraining of an encoder on other languages buys, and what it forgets.

python benchmarks/continued.py --corpora SPEECH --output_file continued.json    (again and again, until all is done)

SPEECH is the folder of the corpora, with `languages` and `librispeech-mini`. The encoder in model_cards/results has
heard English only. It is pretrained further on eleven other languages, without and with English mixed in; beside it an
encoder starts from scratch there, and is then pretrained further on English: all with equal updates. Each encoder is
fine-tuned on ten minutes of seven languages in Latin script (character errors), and clustered on English (PNMI), which
tells what it forgot. Every command goes on where it stopped.
"""

import argparse
from pathlib import Path
from typing import Any

from measuring import processor, run_commands, words

from hf_ssl_speech.files import read_json, write_json
from hf_ssl_speech.records import read_record

ENGLISH = Path(__file__).parents[1] / "model_cards" / "results" / "hubert-tiny-english"
OTHERS, LATIN = "de|fr|es|it|ru|zh-CN|ar|cy|eu|rw|ta", "de|fr|es|it|cy|eu|rw"
UNITS, LAYER = 100, 3


def arms(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What each encoder starts from, the share of English that it hears, and the units that it predicts."""
    found: dict[str, dict[str, Any]] = {"languages": {"start": "", "english": 0.0, "units": "mfcc"}}
    for share in args.shares:
        found[f"continued-{share:g}"] = {"start": str(args.encoder), "english": share, "units": "english"}
    return found | {"back": {"start": f"{args.output_dir}/languages", "english": 1.0, "units": "back"}}


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """All steps in their order, by name."""
    folder, mini, spoken = args.output_dir, args.corpora / "librispeech-mini", args.corpora / "languages"
    english, others = f"english={mini}/train*.parquet", f"others={spoken}/train*.parquet[language={OTHERS}]"
    fit = {"num_units": UNITS, "center": True, "restarts": 1}
    of_english = {"encoder": args.encoder, "layer": LAYER, "train_data": [others, english]}
    back = {"encoder": folder / "languages", "layer": LAYER, "train_data": english}
    steps = {}
    for name, made_from in {"mfcc": {"train_data": others}, "english": of_english, "back": back}.items():
        steps[f"units-{name}"] = words(
            "units", kmeans_share=0.3, output_dir=folder / f"units-{name}", **made_from, **fit
        )
    for name, arm in arms(args).items():
        share = arm["english"]
        data: dict[str, object] = {"train_data": others if share == 0 else english}
        if 0 < share < 1:
            data = {"train_data": [others, english], "weights": [f"others={1 - share}", f"english={share}"]}
        steps[name] = words(
            "pretrain", "hubert_tiny", units=folder / f"units-{arm['units']}", model_name_or_path=arm["start"],
            learning_rate=args.learning_rate if arm["start"] else 1.5e-3, warmup_steps=0.1, max_steps=args.updates,
            validation_share=0, eval_strategy="no", save_steps=100, seed=args.seed, cache_audio=True,
            disable_tqdm=True, output_dir=folder / name, **data,
        )  # fmt: skip
    steps["units-back"], steps["back"] = steps.pop("units-back"), steps.pop("back")  # of an encoder made before
    encoders = {"english": args.encoder} | {name: folder / name for name in arms(args)}
    steps["labels"] = words(
        "label-efficiency", "label_efficiency_digits", minutes=10, seeds=args.seed,
        starts=["scratch", *(f"{name}={path}" for name, path in encoders.items())],
        train_data=f"{spoken}/train*.parquet[language={LATIN}]", test_data=f"{spoken}/test*.parquet[language={LATIN}]",
        validation_share=0.1, min_seconds=0.5, max_seconds=24, batch_seconds=24, max_steps=args.ctc_updates,
        eval_steps=args.ctc_updates, save_steps=args.ctc_updates, disable_tqdm=True, output_dir=folder / "labels",
    )  # fmt: skip
    for name, path in encoders.items():
        steps[f"pnmi-{name}"] = words(
            "units", encoder=path, layer=LAYER, kmeans_share=1, train_data=f"{mini}/train_10min*.parquet",
            validation_data=f"{mini}/validation*.parquet", output_dir=folder / f"pnmi-{name}", **fit,
        )  # fmt: skip
    return steps


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, default=ENGLISH)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/continued-measured"))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.5], help="of English, mixed in")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--learning_rate", type=float, default=5e-4, help="of what goes on from an encoder")
    parser.add_argument("--ctc_updates", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_file", type=Path, help="JSON with all figures")
    args = parser.parse_args(argv)
    seconds = run_commands(commands(args), args.output_dir)
    labels = read_json(args.output_dir / "labels" / "results.json", "the results of label-efficiency")
    rates = {point["start"]: point["cer"] for point in labels["curves"]}
    found = []
    for name, arm in {"scratch": None, "english": None, **arms(args)}.items():
        quality = read_record(args.output_dir / f"pnmi-{name}")["quality"] if name != "scratch" else {}
        about = {"name": name, "english": arm["english"] if arm else None, "cpu_seconds": seconds.get(name)}
        found.append(about | {"cer": rates[name], "pnmi": quality.get("pnmi")})
    settings = {each: getattr(args, each) for each in ("updates", "learning_rate", "ctc_updates", "seed")}
    results = {"processor": processor(), "settings": settings, "results": found}
    write_json(results, args.output_file or args.output_dir / "results.json")
    print(results)


if __name__ == "__main__":
    main()
