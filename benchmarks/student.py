"""What a small student is worth: beside its teacher, and beside HuBERT of the student's size at equal cost.

python benchmarks/student.py --corpora SPEECH --output_file student.json        (again and again, until all is done)

SPEECH is the folder of the corpora, with `librispeech-mini`. The teacher is the encoder in model_cards/results.
Student and HuBERT have two layers and hear the same 2.2 hours; HuBERT learns units of the teacher's third layer.
`--hubert_share` says how many updates HuBERT makes for each of the student's, since a step of the student includes the
teacher's; the CPU seconds of both trainings are kept, so that the share can be checked. Then `payoff` probes, clusters
and fine-tunes all three with the same settings. Every command goes on where it stopped.
"""

import argparse
from pathlib import Path

from measuring import processor, run_commands, words

from hf_ssl_speech.files import read_json, write_json
from hf_ssl_speech.records import read_record

TEACHER = Path(__file__).parents[1] / "model_cards" / "results" / "hubert-tiny-english"
LAYERS, TEACHER_LAYERS, UNITS, UNIT_LAYER = 2, (2, 4), 100, 3


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """The units that HuBERT learns, HuBERT, the student, and what measures them."""
    folder, mini, size = args.output_dir, args.corpora / "librispeech-mini", {"num_hidden_layers": LAYERS}
    audio = {"train_data": f"{mini}/train*.parquet", "cache_audio": True}
    run = {"validation_share": 0, "eval_strategy": "no", "warmup_steps": 0.07, "save_steps": 100, "seed": args.seed}
    run |= audio | {"disable_tqdm": True}
    units = {"num_units": UNITS, "center": True, "restarts": 1, "kmeans_share": 0.2}
    labels = {"train_data": f"{mini}/train_10min*.parquet", "test_data": f"{mini}/validation*.parquet"}
    labels |= {"validation_share": 0.1, "minutes": "all", "seeds": args.seed, "disable_tqdm": True}
    labels |= {"min_seconds": 0.5, "max_seconds": 24, "batch_seconds": 24, "max_steps": args.ctc_updates}
    labels |= {"eval_steps": args.ctc_updates, "save_steps": args.ctc_updates, "cache_audio": True}
    probe = {"unit_hours": 0.15, "center": True, "probe_updates": 300, "probe_learning_rates": 1e-2}
    return {
        "units": words("units", encoder=args.teacher, layer=UNIT_LAYER, output_dir=folder / "units", **audio, **units),
        "hubert": words(
            "pretrain", "hubert_tiny", units=folder / "units", max_steps=round(args.updates * args.hubert_share),
            config=size | {"unmasked_loss_weight": 1}, output_dir=folder / "hubert", **run,
        ),
        "student": words(
            "distil", "distil_tiny", teacher=args.teacher, teacher_layers=list(TEACHER_LAYERS), config=size,
            max_steps=args.updates, output_dir=folder / "student", **run,
        ),
        "payoff": words(
            "payoff", "label_efficiency_digits", starts=[
                "scratch", f"teacher={args.teacher}", f"student={folder}/student", f"hubert={folder}/hubert"
            ],
            output_dir=folder / "payoff", **labels, **probe,
        ),
    }  # fmt: skip


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, default=TEACHER)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/student-measured"))
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--hubert_share", type=float, default=1.3)
    parser.add_argument("--ctc_updates", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_file", type=Path, help="JSON with all figures")
    args = parser.parse_args(argv)
    seconds = run_commands(commands(args), args.output_dir)
    measured = read_json(args.output_dir / "payoff" / "results.json", "the results of payoff")
    records = {name: read_record(args.output_dir / name) for name in ("student", "hubert")}
    records["teacher"] = read_record(args.teacher)
    runs = {
        name: {"updates": each["updates"], "parameters": each["parameters"], "hours_seen": each["hours_seen"]}
        for name, each in records.items()
    }
    for name in ("student", "hubert"):
        runs[name]["cpu_seconds"] = seconds[name]
    points = [{name: value for name, value in point.items() if name != "layers"} for point in measured["points"]]
    found = {"processor": processor(), "ctc_updates": args.ctc_updates, "runs": runs, "points": points}
    write_json(found, args.output_file or args.output_dir / "results.json")
    print((args.output_dir / "payoff" / "report.md").read_text())


if __name__ == "__main__":
    main()
