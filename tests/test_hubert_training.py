"""HuBERT in `examples/pretrain.py`: where units come from, what is checked, what the record says of them."""

import importlib.util
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import TINY
from datasets import Dataset, Features, List, Value

from hf_ssl_speech import (
    KMeansUnits,
    SpeechPreTrainer,
    SpeechPreTrainingArguments,
    SSLHubertConfig,
    SSLHubertForPreTraining,
    add_units,
)
from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.data.features import MfccFeatures
from hf_ssl_speech.data.preparing import prepare_speech
from hf_ssl_speech.recipes.arguments import HubertIterationsArguments
from hf_ssl_speech.recipes.inputs import SpeechModelArguments, SpeechPreTrainingDataArguments
from hf_ssl_speech.recipes.unit_labels import UnitLabels

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "examples" / "configs").glob("hubert_*.yaml"))
SPEED = ("runtime", "samples_per_second", "steps_per_second")
CONFIG = dict(TINY, mask_time_length=3)
SETTINGS = [
    "--objective", "hubert", "--preset", "base", "--batch_seconds", "4", "--max_seconds", "2", "--min_seconds", "1",
    "--max_steps", "2", "--warmup_steps", "0", "--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "2",
    "--save_steps", "2", "--use_cpu", "true", "--dataloader_num_workers", "0", "--cache_audio", "true",
    "--disable_tqdm", "true",
]  # fmt: skip


def noise_rows(num_rows: int, seed: int) -> Dataset:
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(num_rows):
        file = io.BytesIO()
        wave = generator.normal(size=16_000 + 2_000 * index) * np.linspace(0, 0.2, 16_000 + 2_000 * index)
        soundfile.write(file, wave, 16_000, format="wav")
        rows.append({"id": f"{seed}-{index}", "audio": {"bytes": file.getvalue(), "path": None}})
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def prepared():
    """Training and validation rows."""
    return [prepare_speech(noise_rows(count, seed), min_seconds=1, cache=True)[0] for count, seed in ((8, 0), (4, 1))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, prepared):
    """`train` and `validation`, and the unit sets `units-6`, `units-9` and, every 10 ms, `units-fast`."""
    folder = tmp_path_factory.mktemp("hubert")
    for count, seed, split in ((8, 0, "train"), (4, 1, "validation")):
        noise_rows(count, seed).save_to_disk(folder / split)
    for number, name, every in ((6, "units-6", 2), (9, "units-9", 2), (6, "units-fast", 1)):
        units = KMeansUnits.fit(prepared[0], MfccFeatures(every), number, progress=False)
        units.save_pretrained(folder / name)
    return folder


def run_script(folder: Path, output: Path, *arguments: str, config=None) -> dict:
    """Runs `examples/pretrain.py` in this process, and gives its record."""
    spec = importlib.util.spec_from_file_location("pretrain", ROOT / "examples" / "pretrain.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    data = ["--train_data", f"{folder}/train", "--validation_data", f"{folder}/validation"]
    fields = json.dumps({**CONFIG, **(config or {})})
    script.main([*data, "--output_dir", str(output), "--config", fields, *SETTINGS, *arguments])
    return json.loads((output / "run.json").read_text())


def test_unit_sets_label_both_splits_and_set_the_size_of_the_head(folder, tmp_path):
    record = run_script(folder, tmp_path / "run", "--units", f"{folder}/units-6", f"{folder}/units-9")
    assert record["status"] == "complete"
    assert record["identity"]["config"]["num_units"] == [6, 9]
    for split in ("train", "validation"):
        units = record["data"][split]["units"]
        assert units["columns"] == ["units_1", "units_2"]
        assert [each["source"] for each in units["sets"]] == [f"{folder}/units-6", f"{folder}/units-9"]
        assert units["fingerprint"] == record["identity"]["data"]["units"]
    assert np.isfinite(record["curves"][-1]["train_loss"])
    evaluated = next(point for point in record["curves"] if "eval_masked_accuracy" in point)
    names = SSLHubertForPreTraining(SSLHubertConfig(**record["identity"]["config"])).metric_names
    told = {name.removeprefix("eval_") for name in evaluated} - {*SPEED, "epoch", "step"}
    assert told == {*names, *SpeechPreTrainer.own_metrics}
    with pytest.raises(ValueError, match=r"config.num_units: \[6, 9\] there, \[6\] here"):
        run_script(folder, tmp_path / "run", "--units", f"{folder}/units-6")


def test_units_of_the_same_number_but_other_centroids_are_another_run(folder, prepared, tmp_path):
    first = run_script(folder, tmp_path / "run", "--units", f"{folder}/units-6")
    KMeansUnits.fit(prepared[1], MfccFeatures(), 6, progress=False).save_pretrained(tmp_path / "others")
    with pytest.raises(ValueError, match="data.units: '" + first["identity"]["data"]["units"]):
        run_script(folder, tmp_path / "run", "--units", str(tmp_path / "others"))


def test_columns_of_the_data_give_the_run_that_their_unit_set_gives(folder, tmp_path):
    """The labels are the same, so the losses are."""
    labelled = tmp_path / "labelled"
    for split in ("train", "validation"):
        rows = Dataset.load_from_disk(folder / split)
        prepared = prepare_speech(rows, min_seconds=1, cache=True)[0]
        units = add_units(prepared, KMeansUnits.from_pretrained(folder / "units-6"))["units"]
        features = Features({**rows.features, "clusters": List(Value("int64"))})
        Dataset.from_list([{**row, "clusters": one} for row, one in zip(rows, units)], features).save_to_disk(
            labelled / split
        )
    made = run_script(folder, tmp_path / "made", "--units", f"{folder}/units-6")
    there = run_script(labelled, tmp_path / "there", "--unit_columns", "clusters", config={"num_units": [6]})
    for ours, theirs in zip(made["curves"], there["curves"]):
        for name in {"loss", "eval_loss", "eval_masked_accuracy"} & ours.keys():
            assert ours[name] == theirs[name], name

    rows = Dataset.load_from_disk(labelled / "train")
    rows.map(lambda row: {"clusters": [(unit + 1) % 6 for unit in row["clusters"]]}).save_to_disk(tmp_path / "train")
    with pytest.raises(ValueError, match=r"is of another run .data.unit_columns"):
        run_script(
            labelled, tmp_path / "there", "--unit_columns", "clusters", "--train_data", str(tmp_path / "train"),
            config={"num_units": [6]},
        )  # fmt: skip


def test_a_complete_run_has_its_model(folder, tmp_path, monkeypatch):
    """A kill while the model is saved leaves a run that goes on, not one that counts as complete."""
    with monkeypatch.context() as patch:
        patch.setattr(SpeechPreTrainer, "save_model", lambda self, *args, **kwargs: 1 / 0)
        patch.setattr(SpeechPreTrainer, "_save_checkpoint", lambda *args: None)
        with pytest.raises(ZeroDivisionError):
            run_script(folder, tmp_path / "run", "--units", f"{folder}/units-6")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    assert run_script(folder, tmp_path / "run", "--units", f"{folder}/units-6")["status"] == "complete"
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "model, data, message",
    [
        ({}, {}, "neither were given"),
        ({}, {"units": ["a"], "unit_columns": ["b"]}, "both were given"),
        ({}, {"unit_columns": ["units"]}, "The number of units in the columns units"),
        (
            {},
            {"units": ["no-such-folder/at-all/here"]},
            "There is no folder no-such-folder/at-all/here",
        ),
        ({"objective": "wav2vec2"}, {"units": ["a"]}, "needs no units"),
    ],
)
def test_what_is_missing_or_too_much_is_said_before_the_data_is_read(model, data, message):
    model_args = SpeechModelArguments(**{"objective": "hubert", **model})
    with pytest.raises(ValueError, match=message):
        UnitLabels.load(model_args, SpeechPreTrainingDataArguments(["speech"], **data))


def test_wav2vec2_needs_no_units():
    assert UnitLabels.load(SpeechModelArguments(), SpeechPreTrainingDataArguments(["speech"])) is None


def test_units_of_another_frame_rate_are_refused(folder):
    labels = UnitLabels.from_sets([f"{folder}/units-fast"])
    with pytest.raises(ValueError, match=r"a unit every 160 samples from 400, but the model .* every 320"):
        labels.check(None, SSLHubertConfig(num_units=[6]))


@pytest.mark.parametrize(
    "row, change, message",
    [
        (3, lambda units: [6, *units[1:]], r"Row 0-3 has the unit 6 in 'units', but the model predicts 6"),
        (5, lambda units: [-1, *units[1:]], r"Row 0-5 has the unit -1"),
        (2, lambda units: units[:-1], r"Row 0-2 has 61 units in 'units', but its audio makes 62 frames"),
    ],
)
def test_a_row_with_wrong_units_is_named(folder, prepared, row, change, message):
    labelled = add_units(prepared[0], KMeansUnits.from_pretrained(folder / "units-6"))
    columns = UnitLabels(("units",))
    columns.check(labelled, SSLHubertConfig(num_units=[6]))
    units = [list(map(int, each)) for each in labelled["units"]]
    units[row] = change(units[row])
    wrong = labelled.remove_columns("units").add_column("units", units)
    with pytest.raises(ValueError, match=message):
        columns.check(wrong, SSLHubertConfig(num_units=[6]))
    # Rows that were left out do not count.
    columns.check(wrong.select([other for other in range(len(wrong)) if other != row]), SSLHubertConfig(num_units=[6]))


@pytest.mark.parametrize(
    "units, message",
    [
        ("1 2 3", "Row 0-0 has .*'1 2 3'.* in 'units'; expected a list of integers"),
        ([0.5, 1.5], r"Row 0-0 has array\(\[0.5, 1.5\].* in 'units'; expected a list of integers"),
        (None, "Row 0-0 has 0 units in 'units'"),
    ],
)
def test_a_column_that_holds_no_units_is_refused(prepared, units, message):
    dataset = prepared[0]
    kind = List(Value("int32")) if units is None else None
    wrong = dataset.add_column("units", [units] * len(dataset), feature=kind)
    with pytest.raises(ValueError, match=message):
        UnitLabels(("units",)).check(wrong, SSLHubertConfig(num_units=[6]))


@pytest.mark.usefixtures("named_corpora")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_understood(path, tmp_path):
    kinds = [SpeechModelArguments, SpeechPreTrainingDataArguments, SpeechPreTrainingArguments]
    if "iterations" in path.stem:
        kinds.append(HubertIterationsArguments)
    tokens = [str(path), "--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false"]
    model, data, arguments, *iterations = parse_arguments(tokens, *kinds)
    assert data.train_data and data.validation_data
    assert bool(data.units) != bool(iterations)
    assert arguments.max_steps > arguments.warmup_steps
    SSLHubertConfig.preset(model.preset, **model.config)
    if model.preset in ("base", "large"):
        hours = arguments.batch_seconds * arguments.batches_per_update / 3600
        assert hours == pytest.approx({"base": 0.7778, "large": 2.0}[model.preset], rel=1e-3)


def test_the_number_of_unit_sets_is_that_of_the_config(prepared):
    with pytest.raises(ValueError, match=re.escape("names 2 unit sets, but there are 1 (units)")):
        UnitLabels(("units",)).check(None, SSLHubertConfig(num_units=[6, 6]))
