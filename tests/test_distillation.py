"""A student learns what its teacher says, exactly, whoever the teacher is; what can't be learnt is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import train_tiny_student
from datasets import Dataset
from safetensors.torch import load_file
from test_exactness import largest_difference, save_rows  # noqa: F401
from test_training import noise_rows
from train_tiny import train_in_processes
from train_tiny_student import make_distiller
from transformers import AutoModel, HubertModel, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from hf_ssl_speech import (
    SpeechDistiller,
    SpeechPreTrainingArguments,
    SSLHubertForDistillation,
    SSLHubertForPreTraining,
    SSLHubertModel,
    SSLWav2Vec2Model,
    create_model_card,
    load_speech,
    make_student,
    prepare_speech,
    to_transformers,
)
from hf_ssl_speech.commands.main import run
from hf_ssl_speech.data.collators import pretraining_collator
from hf_ssl_speech.data.distortion import Distortion
from hf_ssl_speech.data.noise_settings import NoiseSettings
from hf_ssl_speech.recipes.starting_points import load_teacher
from hf_ssl_speech.records import read_record
from hf_ssl_speech.training import failed_step
from hf_ssl_speech.training.failed_step import replay
from hf_ssl_speech.training.outcomes import UnhealthyRun

STUDENT = {"num_hidden_layers": 1}
SETTINGS = [
    "--teacher_layers", "1", "3", "--batch_seconds", "8", "--max_seconds", "4", "--min_seconds", "1",
    "--max_steps", "2", "--warmup_steps", "0", "--logging_steps", "1", "--save_steps", "1", "--use_cpu", "true",
    "--dataloader_num_workers", "0", "--disable_tqdm", "true", "--config", json.dumps(STUDENT),
]  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return prepare_speech(noise_rows([1.5, 2.0, 2.5, 3.0, 3.5, 4.0]), min_seconds=1, cache=True)[0]


@pytest.fixture
def save_teacher(make_tiny, tmp_path):
    """`save_teacher(model_class, rate=16_000, **fields)`: the folder of a teacher with its feature extractor."""

    def save(model_class=SSLHubertModel, rate=16_000, normalize=True, **fields) -> str:
        folder = tmp_path / model_class.__name__
        make_tiny(model_class, **fields).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(sampling_rate=rate, do_normalize=normalize).save_pretrained(folder)
        return str(folder)

    return save


def speech_folder(folder, rows: int = 6) -> str:
    noise_rows(np.linspace(1.5, 4, rows).tolist()).save_to_disk(folder / "speech")
    return str(folder / "speech")


def distil(folder, teacher: str, *arguments: str):
    run("distil", ["--teacher", teacher, "--train_data", speech_folder(folder), "--output_dir", str(folder / "run"),
                   *SETTINGS, *arguments])  # fmt: skip


# The loss -----------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_sum_over_frames_and_layers_that_the_paper_writes(rows, architecture, make_tiny, tmp_path):
    teacher = make_tiny(SSLHubertModel, **architecture).double()
    trainer = make_distiller(str(tmp_path), {}, {"cosine_loss_weight": 0.7}, rows, teacher=teacher)
    student = trainer.model.eval()
    batch = trainer.data_collator([rows[place] for place in (0, 3, 1)])  # padded
    batch.pop("skipped_rows")
    batch = {name: each.double() if each.is_floating_point() else each for name, each in batch.items()}
    with torch.no_grad():
        loss = student(**trainer._prepare_inputs(batch)).loss
        total, frames = 0.0, 0
        for waveform, length in zip(batch["input_values"], batch["attention_mask"].sum(-1)):
            alone = waveform[None, :length]
            states = teacher(alone, output_hidden_states=True).hidden_states
            hidden = student.base_model(alone).last_hidden_state[0]
            for layer, head in zip((1, 3), student.prediction_heads):
                for frame, target in zip(head(hidden), states[layer][0]):
                    if architecture["do_stable_layer_norm"]:
                        target = (target - target.mean()) / (target.var(unbiased=False) + 1e-5).sqrt()
                    cosine = (frame @ target) / (frame.norm() * target.norm())
                    total += (frame - target).abs().mean() - 0.7 * torch.log(1 / (1 + torch.exp(-cosine)))
            frames += len(hidden)
    assert float(loss) == pytest.approx(float(total / frames), rel=1e-10)
    assert not batch["mask_time_indices"].any()


def test_the_student_starts_as_the_teachers_first_layers(make_tiny):
    teacher = make_tiny(SSLHubertModel)
    student = make_student(teacher, [3], **STUDENT).base_model.state_dict()
    weights = teacher.state_dict()
    assert student.keys() < weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in student.items())
    narrow = make_student(teacher, [3], hidden_size=16, num_hidden_layers=1).base_model.state_dict()
    conv = [name for name in narrow if name.startswith("feature_extractor.")]
    assert conv and all(torch.equal(narrow[name], weights[name]) for name in conv)


# Exactness ----------------------------------------------------------------------------------------------------------


def test_ranks_accumulation_and_padding_change_no_weight_of_a_student(save_rows, tmp_path):  # noqa: F811
    rows, config = save_rows([1.2, 1.9, 2.3, 2.4, 3.1, 3.3, 3.8, 3.9]), {"layerdrop": 0.4}
    train_tiny_student.train(rows, str(tmp_path / "one"), {"gradient_accumulation_steps": 2}, config)
    settings = {"gradient_accumulation_steps": 1}
    train_in_processes(2, rows, tmp_path / "two", settings, config, train_tiny_student.train)
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-10
    rows = save_rows([1.5, 3.9, 2.0, 2.7])
    train_tiny_student.train(rows, str(tmp_path / "padded"), {"batch_seconds": 16}, {})
    alone = {"batch_seconds": 4, "gradient_accumulation_steps": 3}
    train_tiny_student.train(rows, str(tmp_path / "alone"), alone, {})
    assert largest_difference(tmp_path / "padded", tmp_path / "alone") < 1e-10


def test_an_interrupted_student_ends_with_the_very_weights_and_checkpoints_hold_no_teacher(save_rows, tmp_path):  # noqa: F811
    rows, config = save_rows([1.2, 1.9, 2.3, 2.4, 3.1, 3.3, 3.8]), {"hidden_dropout": 0.1, "layerdrop": 0.3}
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 5, "batch_seconds": 4}
    train_tiny_student.train(rows, str(tmp_path / "whole"), settings, config)
    checkpoint = str(tmp_path / "whole" / "checkpoint-5")
    train_tiny_student.train(rows, str(tmp_path / "resumed"), settings, config, resume=checkpoint)
    assert largest_difference(tmp_path / "whole", tmp_path / "resumed") == 0.0
    names = load_file(f"{checkpoint}/model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"hubert", "prediction_heads"}


def test_a_failed_update_of_a_student_is_replayed_without_its_teacher(rows, tmp_path, monkeypatch, make_tiny):
    teacher = make_tiny(SSLHubertModel)
    student = make_student(teacher, [1, 3], **STUDENT)
    arguments = SpeechPreTrainingArguments(str(tmp_path), **train_tiny_student.SETTINGS)
    trainer = SpeechDistiller(student, teacher, arguments, rows)
    monkeypatch.setattr(failed_step, "math", SimpleNamespace(isfinite=lambda norm: trainer.state.global_step < 1))
    with pytest.raises(UnhealthyRun, match="in update 2"):
        trainer.train()
    monkeypatch.undo()
    assert replay(tmp_path / "failed-step").is_exact


def test_the_teacher_hears_no_noise(rows, tmp_path):
    trainer = make_distiller(str(tmp_path), {}, {}, rows)
    collator = pretraining_collator(trainer.model.config, normalize=True, max_seconds=4)
    some = [rows[place] for place in range(4)]
    clean = collator(some)
    collator.distortion = Distortion(NoiseSettings(utterances=1.0), None, None, rows)
    noisy = collator(some)
    assert torch.equal(noisy["clean_values"], clean["input_values"])
    assert not torch.equal(noisy["input_values"], clean["input_values"])
    for batch in (clean, noisy):
        batch.pop("skipped_rows")
    trainer.teacher.float()
    frames = [trainer._prepare_inputs(batch)["teacher_frames"] for batch in (clean, noisy)]
    assert torch.equal(*frames)


# From start to end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher_class", [SSLHubertModel, SSLWav2Vec2Model, HubertModel, Wav2Vec2Model])
def test_any_encoder_teaches_and_the_student_is_one_like_any_other(teacher_class, save_teacher, tmp_path):
    teacher = save_teacher(teacher_class, normalize=False)
    distil(tmp_path, teacher)
    record = read_record(tmp_path / "run")
    assert record["status"] == "complete" and record["start"]["source"] == teacher
    student = AutoModel.from_pretrained(tmp_path / "run")
    assert type(student) is SSLHubertModel and student.config.num_hidden_layers == 1
    extractor = json.loads((tmp_path / "run" / "preprocessor_config.json").read_text())
    assert extractor["do_normalize"] is False  # as the teacher hears
    stock = to_transformers(SSLHubertForDistillation.from_pretrained(tmp_path / "run").eval())
    assert "teacher_layers" not in stock.config.to_dict()
    waveform = torch.randn(1, 8_000)
    assert torch.equal(stock(waveform).last_hidden_state, student.eval()(waveform).last_hidden_state)
    card = str(create_model_card(tmp_path / "run"))
    assert "layers 1, 3" in card and "DistilHuBERT" in card and "2110.01900" in card


def test_a_student_is_fine_tuned_and_goes_on_as_hubert(save_teacher, tmp_path):
    distil(tmp_path, save_teacher())
    labelled = Dataset.load_from_disk(tmp_path / "speech")
    labelled.add_column("text", ["so it is"] * len(labelled)).save_to_disk(tmp_path / "labelled")
    finetuned = ["ctc_tiny", "--model_name_or_path", str(tmp_path / "run"), "--train_data", str(tmp_path / "labelled")]
    finetuned += ["--validation_data", str(tmp_path / "labelled"), "--output_dir", str(tmp_path / "ctc")]
    run(
        "finetune", [*finetuned, "--max_steps", "1", "--eval_steps", "1", "--save_steps", "1", "--disable_tqdm", "true"]
    )
    assert read_record(tmp_path / "ctc")["status"] == "complete"
    model = SSLHubertForPreTraining.from_pretrained(tmp_path / "run", num_units=[10])
    assert pretraining_collator(model.config, normalize=False).unit_columns == ("units",)


def test_another_teacher_is_another_run(save_teacher, make_tiny, tmp_path):
    teacher = save_teacher()
    distil(tmp_path, teacher)
    make_tiny(SSLHubertModel, seed=1).save_pretrained(teacher)
    with pytest.raises(ValueError, match=r"config\.teacher_hash"):
        distil(tmp_path, teacher)
    with pytest.raises(ValueError, match="made for a teacher with other weights"):
        student = make_student(make_tiny(SSLHubertModel), [1])
        SpeechDistiller(student, make_tiny(SSLHubertModel, seed=1), SpeechPreTrainingArguments(str(tmp_path)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--teacher_layers", "2", "4"], r"has 3 layers, 1 to 3, but teacher_layers names \[4\]"),
        (["--teacher_layers", "0"], r"names \[0\]"),
        (["--teacher_layers", "2", "2"], "name at least one layer, and each once"),
        (["--config", '{"conv_stride": [5, 2, 2, 2, 2, 2, 1]}'], "must be its teacher's: every 320 samples"),
        (["--config", '{"num_layers": 2}'], "has no field num_layers"),
        (["--config", '{"hidden_dropout": 1}'], "nothing passes through"),
        (["--units", "runs/units"], "There is no argument --units"),
        (["--teacher", "nowhere"], "There is no model at nowhere"),
    ],
)
def test_what_can_not_be_learnt_is_refused(arguments, message, save_teacher, tmp_path):
    with pytest.raises(ValueError, match=message):
        distil(tmp_path, save_teacher(), *arguments)


def test_a_teacher_of_another_rate_is_refused(save_teacher, tmp_path):
    with pytest.raises(ValueError, match="was trained at 8,000 Hz"):
        distil(tmp_path, save_teacher(rate=8_000))


def test_a_student_learns_from_real_speech(corpora, tmp_path):
    """More than that frames are all alike: it comes nearer to the teacher than any constant frame."""
    teacher = load_teacher("model_cards/results/hubert-tiny-english")
    folder = corpora / "librispeech-mini"
    train, heard = (
        prepare_speech(load_speech(f"{folder}/{part}-0*.parquet").select(range(number)), min_seconds=1, cache=True)[0]
        for part, number in (("train_10min", 60), ("validation", 8))
    )
    student = make_student(teacher, [4], num_hidden_layers=1)
    arguments = SpeechPreTrainingArguments(
        str(tmp_path), batch_seconds=8, max_seconds=4, min_seconds=1, max_steps=40, learning_rate=2e-3,
        warmup_steps=5, logging_steps=20, use_cpu=True, save_strategy="no", disable_tqdm=True,
        dataloader_num_workers=0,
    )  # fmt: skip
    trainer = SpeechDistiller(student, teacher, arguments, train, heard)
    trainer.train()
    found = trainer.evaluate()
    batches = list(trainer.get_eval_dataloader())
    frames = torch.cat([
        trainer._prepare_inputs(each)["teacher_frames"][:, :, 0][each["labels"] == 0] for each in batches
    ])  # fmt: skip
    constant = torch.cosine_similarity(frames, frames.mean(0, keepdim=True), dim=-1).mean()
    assert found["eval_cosine_4"] > constant + 0.05
