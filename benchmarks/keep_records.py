"""Keeps what the records of finished runs tell in docs/measured, for docs/results.md and docs/log.md.

python benchmarks/keep_records.py librispeech runs/payoff runs/hubert
python benchmarks/keep_records.py shapes runs/trials/* --trials "Which shape learns most in an hour of computing?"
python benchmarks/results_page.py

The folders are searched for `run.json` of complete pretrainings, units and probes, and `results.json` of
label-efficiency and payoff; folders on the way are left out, so that nothing of this machine is told. With `--trials`
the runs, recognisers too, are one question's trials: the log tells what each does otherwise than the first, what it
cost and gave.
"""

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from measuring import processor

from hf_ssl_speech.files import write_json
from hf_ssl_speech.recipes.starting_points import hours_seen_by
from hf_ssl_speech.records import Record, read_record

KEPT = Path(__file__).parents[1] / "docs" / "measured"
# What says nothing of a recipe: it follows from the data, or from how the run was started.
NOT_SETTINGS = {"data", "start", "model_type", "task"}
PART = re.compile(r"-\d{5}-of-\d{5}|\*")


def source_name(source: str | list[str] | None) -> str:
    """Data by the last two parts of its paths, each once: `digits/train`."""
    sources = [source] if isinstance(source, str) else source or []
    names = ["/".join(Path(PART.sub("", one)).with_suffix("").parts[-2:]) for one in sources]
    return ", ".join(dict.fromkeys(names))


def data_of(parts: dict[str, Any]) -> dict[str, Any]:
    """Of each part its name, hours and rows."""
    return {
        part: {"of": source_name(facts["source"]), "hours": facts["hours"], "rows": facts.get("rows")}
        for part, facts in parts.items()
        if facts and facts.get("hours")
    }


def without_folders(text: str) -> str:
    """A text that tells of paths, with the last part of each."""
    return re.sub(r"(?:[\w.~$-]*/)+([\w.@-]+)", r"\1", text)


def condense(record: Record, name: str) -> dict[str, Any] | None:
    """What is kept of the record of a run; None of one that says nothing by itself."""
    common = {"name": name, "data": data_of(record["data"]), "minutes": (record["seconds"] or 0) / 60}
    identity = record["identity"]
    if record["task"] == "probe":
        told = {each: record["probe"][each] for each in ("task", "is_sequence", "error", "layer_weights")}
        source = record["start"]["source"]
        hours = hours_seen_by(source) if source else None
        return common | {"kind": "probe", **told, "updates": identity["updates"], "hours_seen": hours}
    if record["task"] == "ctc":
        scored = [point for point in record["curves"] if "eval_cer" in point]
        best = min(scored, key=lambda point: point["eval_cer"], default=None)
        return best and common | {
            "kind": "recogniser",
            "start": Path(identity["start"] or "scratch").name,
            "updates": record["updates"],
            "errors": {name: best[f"eval_{name}"] for name in ("wer", "cer")},
            "settings": identity["config"] | record["recipe"],
        }
    if identity.get("stage") == "units":
        made_from = without_folders(record["units"]["features"])
        told = {"made_from": made_from, "num_units": record["units"]["num_units"], "quality": record["quality"]}
        return common | {"kind": "units", **told}
    if record["task"] is None and identity.get("model_type") and record["hours_seen"]:
        last = [point for point in record["curves"] if "eval_loss" in point][-1:]
        settings = {name: value for name, value in identity.items() if name not in NOT_SETTINGS}
        start = {"start": Path(identity["start"]).name} if identity.get("start") else {}
        units = record["data"]["train"]["units"]["sets"]
        return common | {
            "kind": "pretraining",
            "objective": identity["model_type"].removeprefix("ssl-"),
            **{each: record[each] for each in ("parameters", "updates", "hours_seen")},
            "seed": record["recipe"]["seed"],
            "evaluation": last[0] if last else {},
            "units": [without_folders(str(each["features"])) for each in units],
            "settings": settings["config"] | record["recipe"] | start,
        }
    return None


def collect(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """What the folders hold, in their order; what belongs to a payoff or a curve is told by that alone."""
    for folder in folders:
        told: list[Path] = []
        for path in sorted(folder.rglob("results.json"), key=lambda path: len(path.parts)):
            found = json.loads(path.read_text())
            kind = "payoff" if "points" in found else "labels" if "curves" in found else None
            if kind and not any(path.is_relative_to(each) for each in told):
                told.append(path.parent)
                about = {"name": path.parent.name, "data": data_of(found["data"] or {}), "updates": found["updates"]}
                points = found["points" if kind == "payoff" else "curves"]
                starts = found.get("starts", {})
                hours = {name: hours_seen_by(start) for name, start in starts.items() if start}
                yield {"kind": kind, **about, kind: points, "hours_seen": hours}
        for path in sorted(folder.rglob("run.json")):
            record = read_record(path.parent)
            if record["status"] == "complete" and not any(path.is_relative_to(each) for each in told):
                entry = condense(record, path.parent.name)
                if entry:
                    yield entry


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the file in docs/measured; one of that name is replaced")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--trials", help="the question that these runs are trials of")
    parser.add_argument("--verdict", default="", help="what they taught, in a sentence")
    parser.add_argument("--machine", default=processor(), help="what the runs were computed on (default: this one)")
    args = parser.parse_args(argv)
    entries = list(collect(args.folders))
    if not entries:
        raise SystemExit(f"None of {', '.join(map(str, args.folders))} holds the record of a complete run.")
    kind = "trials" if args.trials else "results"
    found = {"machine": args.machine, "question": args.trials, "verdict": args.verdict, "entries": entries}
    path = KEPT / kind / f"{args.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json({name: value for name, value in found.items() if value}, path)
    print(f"{path} holds {len(entries)} entries: run results_page.py")


if __name__ == "__main__":
    main()
