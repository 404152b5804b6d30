"""The benchmarks run, and what they claim can be read from their files."""

import json
import re
import shlex
import sys
from pathlib import Path
from subprocess import Popen

import numpy as np
import pytest

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.recipes.arguments import (
    DistillationArguments,
    LabelEfficiencyArguments,
    PayoffArguments,
    UnitArguments,
)
from hf_ssl_speech.recipes.inputs import (
    SpeechCTCModelArguments,
    SpeechDataArguments,
    SpeechModelArguments,
    SpeechPreTrainingDataArguments,
    SpeechTextArguments,
)
from hf_ssl_speech.training.arguments import SpeechCTCTrainingArguments, SpeechPreTrainingArguments

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """`benchmark(name)` imports one of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__
    for file in BENCHMARKS.glob("*.py"):
        sys.modules.pop(file.stem, None)


@pytest.mark.slow
def test_a_step_has_the_loss_and_gradients_of_its_peers_and_its_time_is_measured(benchmark, tmp_path):
    file = tmp_path / "results.json"
    benchmark("training_step").main(["--quick", "--precisions", "float32", "--output_file", str(file)])
    results = json.loads(file.read_text())
    assert [case["objective"] for case in results["cases"]] == ["wav2vec2", "hubert-100", "hubert-500"]
    for case in results["cases"]:
        assert case["loss_difference"] < 1e-4 and case["gradient_difference"] < 2e-3
        assert all(0 < share < 10 for share in case["share_of_product"].values())
        assert case["seconds"]["ours"]["minimum"] <= case["seconds"]["ours"]["median"]


@pytest.mark.slow
def test_a_step_is_measured_beside_an_older_revision_with_the_same_loss(benchmark, tmp_path):
    file = tmp_path / "results.json"
    given = ["--precisions", "float32", "--objectives", "wav2vec2", "--against", "HEAD"]
    benchmark("training_step").main(["--quick", *given, "--output_file", str(file)])
    (case,) = json.loads(file.read_text())["cases"]
    assert case["beside"] == "HEAD" and case["loss_difference"] < 1e-4
    assert all(0 < times["minimum"] <= times["median"] for times in case["seconds"].values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["kmeans", "mfcc", "labelling", "loading", "memory", "transcription", "scaling", "traffic", "operators"]
)
def test_a_benchmark_runs_and_the_page_has_a_section_of_what_it_writes(name, benchmark, tmp_path):
    if name == "kmeans":
        pytest.importorskip("faiss", reason="faiss-cpu, beside which k-means is measured, is not installed")
    benchmark(name).main(["--quick", "--output_file", str(tmp_path / f"{name}.json")])
    results = json.loads((tmp_path / f"{name}.json").read_text())
    assert results["machine"]["threads"] == 1 and results["settings"]
    for case in results.get("cases", []):
        assert all(0 < times["minimum"] <= times["median"] <= times["maximum"] for times in case["seconds"].values())
    section = benchmark("performance_sections").sections(tmp_path)
    assert section.startswith("## ") and results["machine"]["processor"] in section


@pytest.mark.slow
def test_the_steps_on_a_gpu_are_tried_on_a_cpu(benchmark, tmp_path):
    file = tmp_path / "gpu.json"
    benchmark("gpu_step").main(["--dry_run", "--output_file", str(file)])
    results = json.loads(file.read_text())
    assert results["machine"]["device"] == "a CPU"
    for case in results["cases"]:
        assert all(0 < case["share_of_product"][name] < 10 for name in case["seconds"])


def test_the_pages_of_results_tell_what_was_kept_last_and_nothing_of_a_machines_folders(benchmark):
    made = benchmark("results_page")
    for page, text in ((made.RESULTS, made.results()), (made.LOG, made.log()), (made.README, made.readme())):
        assert page.read_text() == text, "run `python benchmarks/results_page.py`"
    assert made.BEGIN in made.README.read_text()
    for file in made.MEASURED.glob("*/*.json"):
        assert not re.search(r'"[^"]*(?:^|[\s"])/\w+/', file.read_text()), file


def test_the_page_on_speed_tells_what_was_measured_last(benchmark):
    made = benchmark("performance_page")
    assert made.PAGE.read_text() == made.page(), "run `python benchmarks/performance_page.py`"


def test_the_commands_for_one_gpu_are_understood_and_those_that_take_too_long_are_stopped(
    benchmark, capsys, monkeypatch
):
    made = benchmark("one_gpu")
    made.main(["--corpora", "/corpora", "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    text = (SpeechCTCModelArguments, SpeechDataArguments, SpeechTextArguments, SpeechCTCTrainingArguments)
    kinds = {
        "units": (SpeechDataArguments, UnitArguments),
        "pretrain": (SpeechModelArguments, SpeechPreTrainingDataArguments, SpeechPreTrainingArguments),
        "payoff": (PayoffArguments, LabelEfficiencyArguments, *text),
    }
    assert len(lines) == 6
    found = {}
    for line in lines:
        _, _, command, *words = shlex.split(line)
        on_a_cpu = [] if command == "units" else ["--use_cpu", "true"]
        found[command] = parse_arguments([*words, *on_a_cpu], *kinds[command])
        if command == "payoff":  # it starts from what the pretraining keeps
            kept, starts = found["pretrain"][-1], found["payoff"][1].named_starts
            assert [f"hours-{hours:g}" for hours in kept.keep_hours] == list(starts)[1:-1]
            assert starts["hubert"] == kept.output_dir

    monkeypatch.setattr(made, "STOPS", 10)
    monkeypatch.setattr(made.subprocess, "Popen", lambda command: Popen(["sleep", "30"]))
    assert made.run("pretrain", 0) is None


def test_a_made_index_goes_through_every_stage_that_comes_before_a_model(benchmark, tmp_path, monkeypatch):
    made = benchmark("scale")
    monkeypatch.setattr(made, "BOOK_SECONDS", 60)
    monkeypatch.setattr(made, "HEADERS", 0.1)
    index = made.make_index(tmp_path, hours=2)
    measured = {stage: {"2": made.run_stage(stage, index)} for stage in made.STAGES if stage != "preflight"}
    rows = {stage: each["2"]["rows"] for stage, each in measured.items()}
    assert rows["mixing"] == rows["batching"] > 400 and rows["preparing"] == rows["mixing"] // 10
    shown = made.shown({"stages": measured})
    assert all(stage in shown for stage in measured) and "headers a second" in shown


@pytest.mark.parametrize("name", ["student", "continued"])
def test_the_commands_of_a_measurement_are_understood_and_what_they_need_is_made_before(name, benchmark, monkeypatch):
    made, found = benchmark(name), {}
    text = (SpeechCTCModelArguments, SpeechDataArguments, SpeechTextArguments, SpeechCTCTrainingArguments)
    kinds = {
        "units": (SpeechDataArguments, UnitArguments),
        "pretrain": (SpeechModelArguments, SpeechPreTrainingDataArguments, SpeechPreTrainingArguments),
        "distil": (DistillationArguments, SpeechDataArguments, SpeechPreTrainingArguments),
        "payoff": (PayoffArguments, LabelEfficiencyArguments, *text),
        "label-efficiency": (LabelEfficiencyArguments, *text),
    }
    monkeypatch.setattr(made, "run_commands", lambda commands, folder: found.update(commands) or sys.exit())
    with pytest.raises(SystemExit):
        made.main(["--corpora", "/corpora", "--output_dir", "runs/x"])
    outputs: set[str] = set()
    for command, *words in found.values():
        read = parse_arguments(words, *kinds[command])
        needed = [each.partition("=")[2] or each for each in words if "runs/x/" in each and each != words[-1]]
        outputs.add(read[-1].output_dir)
        assert set(needed) <= outputs
    assert len(outputs) == len(found)


def test_a_measurement_is_told_at_the_end_of_its_page_and_told_anew(benchmark, tmp_path, monkeypatch):
    made = benchmark("measured_sections")
    monkeypatch.setattr(made, "DOCS", tmp_path)
    monkeypatch.setattr(made, "KEPT", tmp_path)
    (tmp_path / "images").mkdir()
    rate = {"value": 0.5, "low": 0.4, "high": 0.6, "confidence": 0.95}
    results = {"GPT-2": {"perplexity": 12.0, "real preferred, blocks of 1": 0.9}}
    of_all = {"all": {"cer": rate}}
    points = [{"name": "scratch", "per": None, "best": {}, "errors": of_all}]
    points += [{"name": "mel", "per": rate, "best": {}, "errors": {}}]
    points += [{"name": "student", "per": rate, "best": {"pnmi": 0.3}, "errors": of_all}]
    run = {"parameters": 1_500_000, "updates": 300, "cpu_seconds": 12.3}
    arms = [{"name": "continued-0.5", "cer": rate, "pnmi": 0.3, "cpu_seconds": 90.0}]
    arms += [{"name": "scratch", "cer": rate, "pnmi": None, "cpu_seconds": None}]
    levels = [{"arm": arm, "seed": 0, "level": level, "agreement": 0.6, "pnmi": 0.3, "cer": 0.5}
              for arm in ("clean", "noise") for level in (None, *made.noise.LEVELS)]  # fmt: skip
    stage = {"seconds": 1.0, "gigabytes": 0.1, "rows": 10}
    sizes = {"updates": 10, "ctc_updates": 5, "layers": 2, "width": 64, "units": "/home/me/units"}
    measured = {
        "unit_lm": {"results": results, "training": [5, 50], "test": [2, 20], "settings": sizes},
        "student": {"points": points, "runs": {"student": run}},
        "continued": {"results": arms, "settings": sizes},
        "noise": {"results": levels},
        "scale": {"stages": {"mixing": {"60000": stage}}},
    }
    assert measured.keys() == made.SECTIONS.keys()
    for name, section in made.SECTIONS.items():
        page, file = tmp_path / f"{section.page}.md", tmp_path / "given.json"
        page.write_text("# A page\n\nSomething.\n")
        file.write_text(json.dumps(measured[name]))
        made.main([name, str(file), "--verdict", "It helps."])
        first = page.read_text()
        assert first.startswith("# A page\n\nSomething.\n\n") and "| --- |" in first and "It helps." in first
        assert (tmp_path / "images" / f"{name}.png").exists()
        made.write_section(name)
        assert page.read_text() == first
    assert "/home" not in (tmp_path / "unit_lm.json").read_text()


def test_the_sections_of_measurements_tell_what_was_kept_last(benchmark, tmp_path, monkeypatch):
    made = benchmark("measured_sections")
    pages = {section.page for section in made.SECTIONS.values()}
    (tmp_path / "images").mkdir()
    for page in pages:
        (tmp_path / f"{page}.md").write_text((made.DOCS / f"{page}.md").read_text())
    written = {page: (tmp_path / f"{page}.md").read_text() for page in pages}
    monkeypatch.setattr(made, "DOCS", tmp_path)
    made.main([])
    assert written == {page: (tmp_path / f"{page}.md").read_text() for page in pages}


def test_the_noise_that_is_measured_with_has_the_level_that_is_asked_for(benchmark):
    made = benchmark("noise")
    speech, hum = (np.random.default_rng(seed).normal(size=16_000).astype(np.float32) for seed in range(2))
    added = made.Noisy([hum], 5.0)(speech, sample_id=3) - speech
    assert 10 * np.log10(np.square(speech).mean() / np.square(added).mean()) == pytest.approx(5, abs=0.01)
