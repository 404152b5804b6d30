"""What pretraining buys: models kept at hours of audio seen, and their errors, probes and units side by side."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from test_label_efficiency import SHORT
from test_training import SETTINGS, noise_rows

from hf_ssl_speech import SpeechPreTrainer, SpeechPreTrainingArguments, SSLHubertForPreTraining, SSLWav2Vec2Model
from hf_ssl_speech.commands.main import run
from hf_ssl_speech.recipes.starting_points import hours_seen_by
from hf_ssl_speech.records import read_record

SECOND = 1 / 3600


@pytest.fixture
def kept(tmp_path, tiny_wav2vec2) -> Path:
    """A run of four updates of at most 8 s, of which models after 8 and 16 s are kept, and one checkpoint."""
    rows = noise_rows([2.0] * 12)
    hours = [8 * SECOND, 16 * SECOND]
    settings = SETTINGS | dict(max_steps=4, save_strategy="steps", save_steps=1, save_total_limit=1, keep_hours=hours)
    trainer = SpeechPreTrainer(tiny_wav2vec2, SpeechPreTrainingArguments(tmp_path / "run", **settings), rows)
    trainer.train()
    return tmp_path / "run"


def test_models_are_kept_at_hours_seen_whatever_is_deleted(kept):
    records = {folder.name: read_record(folder) for folder in sorted(kept.glob("hours-*"))}
    assert [record["kept_update"] for record in records.values()] == [1, 2]
    assert [record["hours_seen"] * 3600 for record in records.values()] == pytest.approx([8, 16])
    assert [path.name for path in kept.glob("checkpoint-*")] == ["checkpoint-4"]
    weights = [SSLWav2Vec2Model.from_pretrained(kept / name).state_dict() for name in records]
    assert any(not weights[0][name].equal(weights[1][name]) for name in weights[0])
    assert hours_seen_by(str(kept / "checkpoint-4")) * 3600 == pytest.approx(32)
    assert hours_seen_by(str(kept / next(iter(records)))) * 3600 == pytest.approx(8)


def speech(folder: Path):
    """Noise with the phones and texts of three words."""
    generator = np.random.default_rng(0)
    for split, number in (("train", 30), ("test", 4)):
        rows = []
        for _ in range(number):
            word = str(generator.choice(["ab", "ba", "bb"]))
            phones = [
                {"phone": each, "start": 0.3 * place, "end": 0.3 * place + 0.3} for place, each in enumerate(word)
            ]
            audio = {"array": generator.normal(size=11_000) / 8, "sampling_rate": 16_000}
            rows.append({"audio": audio, "text": word, "phones": phones})
        Dataset.from_list(rows).to_parquet(folder / f"{split}.parquet")


def test_kept_models_stand_in_one_table_and_picture_against_hours_seen(kept, tmp_path, monkeypatch):
    speech(tmp_path / "speech")
    starts = sorted(str(folder) for folder in kept.glob("hours-*"))
    command = [
        "--starts", "scratch", f"early={starts[0]}", f"late={starts[1]}", "--minutes", "0.1", "--seeds", "0",
        "--train_data", str(tmp_path / "speech"), "--output_dir", str(tmp_path / "payoff"), *SHORT,
        "--num_units", "3", "--probe_updates", "2", "--probe_learning_rates", "3e-3",
    ]  # fmt: skip
    run("payoff", command)
    results = json.loads((tmp_path / "payoff" / "results.json").read_text())
    points = {point["name"]: point for point in results["points"]}
    assert points["early"]["hours"] * 3600 == pytest.approx(8) and points["late"]["hours"] * 3600 == pytest.approx(16)
    assert set(points["late"]["errors"]) == {"0.1"} == set(points["scratch"]["errors"])
    for name in ("early", "late"):
        probe = read_record(tmp_path / "payoff" / "probe" / "PR" / name)
        assert points[name]["per"] == probe["probe"]["error"]
        layers = read_record(tmp_path / "payoff" / "units" / name)["layers"]
        assert points[name]["best"]["pnmi"] == max(layer["pnmi"] for layer in layers)
        assert points[name]["best"]["effective_rank"] > 1
    report = (tmp_path / "payoff" / "report.md").read_text()
    assert "CER with 0.1 min, %" in report and "arxiv.org/abs/2402.13723" in report
    assert (tmp_path / "payoff" / "payoff.png").stat().st_size > 1000

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import keep_records
    import results_page

    monkeypatch.setattr(keep_records, "KEPT", tmp_path / "measured")
    monkeypatch.setattr(results_page, "MEASURED", tmp_path / "measured")
    keep_records.main(["tiny", str(tmp_path / "payoff"), str(kept)])
    keep_records.main(["tried", str(kept), "--trials", "Does it learn?", "--verdict", "No."])
    recognisers = sorted(tmp_path.glob("payoff/labels/*/*/seed-0"))
    keep_records.main(["tuned", *map(str, recognisers), "--trials", "How does it hear?"])
    page = results_page.results()
    for name in ("early", "late", "scratch"):
        told = points[name]["errors"]["0.1"]["cer"]
        assert f"| {name} | {100 * told['value']:.1f} [" in page
    assert "| run | wav2vec2 | 0.0 M | 3 x 32 |" in page and "| 4 | 0.0 |" in page
    assert str(tmp_path) not in page + results_page.log() and "Does it learn?" in results_page.log()
    assert "| WER on validation | CER on validation |" in results_page.log()

    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "payoff").rglob("run.json")}
    run("payoff", command)  # reads everything back
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "payoff").rglob("run.json")}


def test_hours_that_no_record_tells_must_be_given(make_tiny, tmp_path):
    make_tiny(SSLHubertForPreTraining).save_pretrained(tmp_path / "bare")
    command = [
        "--starts", f"bare={tmp_path / 'bare'}", "--minutes", "1", "--train_data", str(tmp_path), "--output_dir",
        str(tmp_path / "payoff"), *SHORT,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="add `--hours bare=HOURS`"):
        run("payoff", command)
    with pytest.raises(ValueError, match="hours names other, but the starts with weights are bare"):
        run("payoff", [*command, "--hours", "other=5"])
