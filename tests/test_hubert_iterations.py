"""The iterations of HuBERT: stages, interruptions, report."""

import json
import logging
import os
import re
import subprocess
import sys
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file
from tones import spoilt_rows, tone_rows
from transformers import AutoModel, MoonshineConfig, SEWConfig, Wav2Vec2FeatureExtractor

import hf_ssl_speech
from hf_ssl_speech import KMeansUnits, SpeechPreTrainingArguments
from hf_ssl_speech.data.hidden_states import weights_hash
from hf_ssl_speech.recipes import hubert_iterations as iterations_module
from hf_ssl_speech.recipes import running, stages
from hf_ssl_speech.recipes.hubert_iterations import HubertIterations, HubertIterationsArguments
from hf_ssl_speech.recipes.inputs import SpeechDataArguments, SpeechModelArguments
from hf_ssl_speech.recipes.iterations_report import write_report
from hf_ssl_speech.recipes.unit_labels import UnitLabels
from hf_ssl_speech.training.pretrainer import SpeechPreTrainer

ROOT = Path(__file__).parents[1]
MODEL = dict(TINY, num_hidden_layers=2, mask_time_length=3)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Folders of training and validation rows."""
    folder = tmp_path_factory.mktemp("speech")
    tone_rows(10, seed=0, phones=False).save_to_disk(folder / "train")
    tone_rows(4, seed=1).save_to_disk(folder / "validation")
    return folder


@pytest.fixture
def make_iterations(speech):
    """`make_iterations(folder, model=None, data=None, **settings)`: settings of the iterations and the training."""
    return partial(build_iterations, speech)


def build_iterations(speech, folder, model=None, data=None, **settings):
    names = HubertIterationsArguments.__dataclass_fields__
    iterations = dict(num_units=[6, 8], choice_hours=1.0)
    training = dict(
        batch_seconds=4, max_seconds=2, min_seconds=1, max_steps=4, learning_rate=1e-3, warmup_steps=0,
        logging_steps=2, save_steps=2, eval_strategy="steps", eval_steps=2, use_cpu=True, disable_tqdm=True,
        dataloader_num_workers=0, seed=1,
    )  # fmt: skip
    iterations |= {name: value for name, value in settings.items() if name in names}
    training |= {name: value for name, value in settings.items() if name not in names}
    return HubertIterations(
        SpeechModelArguments("hubert", **{"config": MODEL, **(model or {})}),
        SpeechDataArguments([f"{speech}/train"], [f"{speech}/validation"], **{"cache_audio": True, **(data or {})}),
        SpeechPreTrainingArguments(output_dir=str(folder), **training),
        HubertIterationsArguments(**iterations),
    )


@pytest.fixture(scope="module")
def finished(speech, tmp_path_factory):
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("iterations") / "run"
    build_iterations(speech, folder).run()
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(path for path in folder.glob("*-*/*.safetensors"))
    return {f"{path.parent.name} {name}": tensor for path in files for name, tensor in load_file(path).items()}


def record(folder: Path, stage: str) -> dict:
    return json.loads((folder / stage / "run.json").read_text())


def test_each_iteration_learns_the_units_of_the_one_before(finished):
    stages = ["0-units", "1-layers", "1-model", "1-units", "2-layers", "2-model", "2-units"]
    assert sorted(path.name for path in finished.iterdir() if path.is_dir()) == stages
    assert record(finished, "1-model")["identity"]["config"]["num_units"] == [6]
    assert record(finished, "2-model")["identity"]["config"]["num_units"] == [8]
    for iteration in (1, 2):
        units = KMeansUnits.from_pretrained(finished / f"{iteration}-units")
        model = hf_ssl_speech.SSLHubertForPreTraining.from_pretrained(finished / f"{iteration}-model")
        assert units.features.weights_hash == weights_hash(model)
        assert units.features.layer == record(finished, f"{iteration}-layers")["layer"]
        labels = record(finished, f"{iteration}-model")["data"]["train"]["units"]
        assert labels["sets"][0]["source"] == str(finished / f"{iteration - 1}-units")


def test_the_checks_come_before_the_first_units_and_alone_if_nothing_else_is_asked_for(
    make_iterations, tmp_path, capsys
):
    make_iterations(tmp_path / "run", preflight_only=True).run()
    shown = capsys.readouterr().out.splitlines()
    for check in ("train", "masks", "batches", "disk", "memory"):
        assert any(line.startswith(f"{check} ") and line.endswith("  ok") for line in shown), check
    too_wide = dict(MODEL, mask_time_length=60)
    with pytest.raises(ValueError, match="makes 49 frames, no more than the 60 of one mask span"):
        make_iterations(tmp_path / "run", model={"config": too_wide}).run()
    assert not list((tmp_path / "run").glob("*-units"))


class Killed(BaseException):
    """As little caught as a real kill."""


def kill_at_call(monkeypatch, owner, name: str, call: int, after: bool = False):
    """Raises at the beginning (or the end) of a function's call number `call`, once."""
    original, calls = getattr(owner, name), []

    def wrapper(*args, **kwargs):
        calls.append(name)
        if len(calls) == call and not after:
            raise Killed
        result = original(*args, **kwargs)
        if len(calls) == call and after:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, wrapper)


def test_a_run_killed_in_and_between_its_stages_ends_with_the_same_weights(
    finished, make_iterations, tmp_path, monkeypatch
):
    monkeypatch.setattr(iterations_module, "write_report", str)  # pictures take time
    trainer = SpeechPreTrainer
    kills = [
        (iterations_module, "measure_units", 1, False),  # units saved, no record yet
        (stages, "write_record", 1, True),  # between stages
        (trainer, "training_step", 2, False),  # before the first checkpoint
        (trainer, "training_step", 4, False),  # after a checkpoint
        (running.SaveModel, "on_train_end", 1, False),  # all updates done, no model saved
        (running.SaveModel, "on_train_end", 1, True),  # model saved, the record still says running
        (iterations_module, "compare_layers", 1, True),
        (stages, "write_record", 2, False),  # units of iteration 1 saved, no record
        (trainer, "_save_checkpoint", 1, False),
        (trainer, "evaluate", 1, True),
    ]
    for owner, name, call, after in kills:
        with monkeypatch.context() as patch:
            kill_at_call(patch, owner, name, call, after)
            with pytest.raises(Killed):
                make_iterations(tmp_path / "run").run()
    make_iterations(tmp_path / "run").run()
    there, here = weights(finished), weights(tmp_path / "run")
    assert there.keys() == here.keys()
    assert [name for name in there if not torch.equal(there[name], here[name])] == []


def test_a_complete_run_is_left_as_it_is_and_says_so(finished, make_iterations, monkeypatch, caplog):
    monkeypatch.setattr(iterations_module, "write_report", str)
    for name in ("pretrain", "compare_layers", "measure_units"):
        kill_at_call(monkeypatch, iterations_module, name, 1)
    before = weights(finished)
    with caplog.at_level(logging.INFO):
        make_iterations(finished).run()
    assert f"All 2 iterations in {finished} are complete" in caplog.text
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(finished).items())


def test_silent_and_unreadable_rows_are_left_out_of_every_stage_and_named(tmp_path, caplog):
    """Without a cache, only decoding tells that they are."""
    spoilt_rows(tone_rows(10, 0, phones=False), silent=1, unreadable=3).save_to_disk(tmp_path / "train")
    spoilt_rows(tone_rows(4, 1), silent=0, unreadable=2).save_to_disk(tmp_path / "validation")
    folder = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        build_iterations(tmp_path, folder, data={"cache_audio": False}, iterations=1, max_steps=1).run()
    unusable = {"train": ["0-1", "0-3"], "validation": ["1-0", "1-2"]}
    for name in chain(*unusable.values()):
        assert f"Skipped {name}: " in caplog.text
    for stage in ("0-units", "1-layers", "1-units"):
        assert sorted(record(folder, stage)["skipped"]) == sorted(chain(*unusable.values()))
    data = record(folder, "1-model")["data"]
    assert {split: data[split]["skipped_while_labelling"] for split in data} == unusable
    assert record(folder, "1-units")["units"]["utterances"] == 8
    assert record(folder, "1-units")["example"]["name"] == "1-1"


@pytest.mark.parametrize(
    "changed, named",
    [
        (dict(num_units=[5, 8]), "num_units: 6 there, 5 here"),
        (dict(num_units=[6, 9]), "num_units: 8 there, 9 here"),
        (dict(learning_rate=2e-3), "recipe.learning_rate: 0.001 there, 0.002 here"),
        (dict(choose_by="agreement"), "criterion: 'pnmi' there, 'agreement' here"),
    ],
)
def test_another_setting_is_an_error_that_names_it(finished, make_iterations, changed, named):
    with pytest.raises(ValueError, match=named):
        make_iterations(finished, **changed).run()


def test_more_iterations_go_on_from_the_last(finished, make_iterations, tmp_path, monkeypatch):
    kill_at_call(monkeypatch, iterations_module, "pretrain", 1)
    monkeypatch.setattr(iterations_module, "write_report", str)
    with pytest.raises(Killed):
        make_iterations(finished, iterations=3).run()
    assert not (finished / "3-model").exists()


def test_a_teacher_gives_the_first_units_and_layers_can_be_named(finished, make_iterations, tmp_path):
    teacher = str(finished / "1-model")
    make_iterations(tmp_path / "run", teacher=teacher, teacher_layer=2, layers=[1], iterations=1, max_steps=1).run()
    units = [KMeansUnits.from_pretrained(tmp_path / "run" / f"{iteration}-units") for iteration in (0, 1)]
    assert (units[0].features.encoder, units[0].features.layer, units[0].num_units) == (teacher, 2, 6)
    assert (units[1].features.layer, units[1].num_units) == (1, 8)
    assert not list((tmp_path / "run").glob("*-layers"))


@pytest.mark.parametrize("squeezed", [SEWConfig, MoonshineConfig])
def test_a_teacher_of_another_frame_rate_is_refused_before_the_data_is_read(
    squeezed, make_iterations, tmp_path, monkeypatch
):
    monkeypatch.setattr(iterations_module, "load_split", None)
    convs = dict(conv_kernel=(10, 3, 3, 3, 3, 2, 2), conv_stride=(5, 2, 2, 2, 2, 2, 2))
    config = squeezed(**dict(TINY, **convs) if squeezed is SEWConfig else dict(hidden_size=32, intermediate_size=64))
    AutoModel.from_config(config).save_pretrained(tmp_path / "teacher")
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"makes a unit every (640 samples from 720|384 samples from 895), but the"):
        make_iterations(tmp_path / "run", teacher=str(tmp_path / "teacher"))


def test_start_weights_fill_the_encoder_and_leave_the_head_fresh(finished, make_iterations, tmp_path):
    start = finished / "1-model"
    iterations = make_iterations(tmp_path / "run", model={"model_name_or_path": str(start), "config": {}})
    model = iterations.new_model(**UnitLabels.from_sets([str(finished / "1-units")]).config_fields)
    saved = load_file(start / "model.safetensors")
    assert model.config.num_units == [8]
    assert torch.equal(
        model.state_dict()["hubert.encoder.layer_norm.weight"], saved["hubert.encoder.layer_norm.weight"]
    )
    assert not torch.equal(model.to_unit_space[0].weight, saved["to_unit_space.0.weight"])


def test_a_layer_that_the_models_lack_is_refused_before_the_first_is_trained(make_iterations, tmp_path, monkeypatch):
    monkeypatch.setattr(iterations_module, "write_report", str)
    with pytest.raises(ValueError, match="the models have 2 layers"):
        make_iterations(tmp_path, layers=[1, 9]).run()
    assert not (tmp_path / "1-model").exists()


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(data={"streaming": True}), "go over the audio many times"),
        (dict(iterations=0), "at least one of each"),
        (dict(teacher_layer=3), "no teacher is named"),
        (dict(layers=[1]), "one for each of 2 models"),
    ],
)
def test_settings_that_contradict_each_other_are_errors(make_iterations, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        make_iterations(tmp_path, **settings)


# Report ------------------------------------------------------------------------------------------------------------


def test_the_report_is_made_from_the_records_alone(finished, tmp_path):
    for stage in ("0-units", "1-layers", "1-model", "1-units", "2-layers", "2-model", "2-units"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "run.json").write_text((finished / stage / "run.json").read_text())
    (tmp_path / "example.flac").write_bytes((finished / "example.flac").read_bytes())
    text = write_report(tmp_path).read_text()
    assert text == (finished / "report.md").read_text()
    for picture in ("units.png", "layers.png", "training.png"):
        assert f"({picture})" in text
        assert (tmp_path / picture).stat().st_size > 10_000
    seconds = [record(finished, f"{number}-{kind}")["seconds"] for kind in ("units", "layers") for number in (1, 2)]
    seconds += [record(finished, "0-units")["seconds"]]
    seconds += [record(finished, f"{number}-model")["seconds"] for number in (1, 2)]
    assert f"| all |  | {sum(seconds) / 60:.1f} |  |" in text
    threads = record(finished, "1-model")["machine"]["threads"]
    assert re.search(rf"\| 1-model \| training \| [\d.]+ \| .*, 1 process, {threads} thread", text)
    layer = record(finished, "2-layers")["layer"]
    assert f"those of layer {layer} have the best PNMI" in text
    quality = record(finished, "2-units")["quality"]
    assert f"{quality['pnmi']:.3f} | {quality['phone_purity']:.3f}" in text


def test_without_phones_the_label_free_criterion_chooses_and_the_report_does_without(
    speech, make_iterations, finished, tmp_path
):
    tone_rows(4, seed=1, phones=False).save_to_disk(tmp_path / "validation")
    iterations = make_iterations(tmp_path / "run", iterations=1, max_steps=1)
    iterations.validation = iterations.validation._replace(rows=iterations.validation.rows.remove_columns("phones"))
    iterations.measured = iterations.measured.remove_columns("phones")
    iterations.criterion = iterations.find_criterion()
    iterations.run()
    layers = record(tmp_path / "run", "1-layers")
    best = max(layers["layers"], key=lambda layer: layer["agreement"])
    assert (layers["criterion"], layers["layer"]) == ("agreement", best["layer"])
    assert "agreement" in (tmp_path / "run" / "report.md").read_text()


# Several processes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_do_as_one_does(finished, speech, tmp_path):
    """The units of MFCC are the same; then half the batch in each process gives nearly the same model."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        str(ROOT / "examples" / "hubert_iterations.py"), "--preset", "base", "--config", json.dumps(MODEL),
        "--train_data", f"{speech}/train", "--validation_data", f"{speech}/validation", "--cache_audio",
        "--num_units", "6", "8", "--choice_hours", "1", "--output_dir", str(tmp_path / "run"), "--batch_seconds", "2",
        "--max_seconds", "2", "--min_seconds", "1", "--max_steps", "4", "--learning_rate", "1e-3", "--warmup_steps",
        "0", "--save_steps", "2", "--use_cpu", "--disable_tqdm", "true", "--dataloader_num_workers", "0", "--seed", "1",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for _ in range(2):  # the second time, all is complete
        done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr[-4000:]
    there, here = weights(finished), weights(tmp_path / "run")
    assert there.keys() == here.keys()
    torch.testing.assert_close(here["0-units centroids"], there["0-units centroids"])
    assert torch.equal(here["0-units counts"], there["0-units counts"])
    assert record(tmp_path / "run", "2-units")["machine"]["processes"] == 2
    for name in ("pnmi", "agreement"):
        ours, theirs = (record(folder, "0-units")["quality"][name] for folder in (tmp_path / "run", finished))
        assert ours == pytest.approx(theirs)


def test_a_later_iteration_that_is_shorter_than_its_warm_up_is_told_before_the_first(tmp_path):
    iterations = HubertIterations.__new__(HubertIterations)
    iterations.folder = tmp_path
    iterations.args = SpeechPreTrainingArguments(tmp_path, use_cpu=True, warmup_steps=50)
    iterations.iterations_args = HubertIterationsArguments(iterations=3, updates=[100, 40, 200])
    found = iterations.later_schedules()
    assert [(finding.check, finding.level) for finding in found] == [("schedule 2", "warning"), ("schedule 3", "ok")]
