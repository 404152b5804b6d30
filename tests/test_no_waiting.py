"""A training step reads no number from the device: on a GPU the host would have to wait for it."""

import numpy as np
import pytest
import torch
from conftest import tiny_model
from datasets import Dataset
from torch.utils._python_dispatch import TorchDispatchMode

from hf_ssl_speech import (
    SpeechPreTrainer,
    SpeechPreTrainingArguments,
    SSLHubertForPreTraining,
    SSLWav2Vec2ForPreTraining,
    prepare_speech,
)
from hf_ssl_speech.data.collators import cropped_to_frames

# What gives a number, a truth or a shape that depends on values.
READ_BY_THE_HOST = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "is_nonzero", "_unique2")


class NoReading(TorchDispatchMode):
    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        assert operator.overloadpacket.__name__ not in READ_BY_THE_HOST, operator
        return operator(*arguments, **(keywords or {}))


@pytest.mark.parametrize("crop_to_frames", [0, 16])
@pytest.mark.parametrize("model_class", [SSLWav2Vec2ForPreTraining, SSLHubertForPreTraining])
def test_a_step_reads_no_number_and_batches_of_one_length_bring_no_mask(model_class, crop_to_frames, tmp_path):
    waves = [np.random.default_rng(samples).normal(size=samples) / 8 for samples in (16_000, 18_000, 20_000)]
    audio = [{"id": str(len(wave)), "audio": {"array": wave, "sampling_rate": 16_000}} for wave in waves]
    rows, _ = prepare_speech(Dataset.from_list(audio), min_seconds=1, cache=True)
    model = tiny_model(model_class, layerdrop=0.1, hidden_dropout=0.1)
    if model_class is SSLHubertForPreTraining:
        rows = rows.add_column("units", [[0] * model.num_frames(samples) for samples in rows["num_samples"]])
    arguments = SpeechPreTrainingArguments(
        output_dir=str(tmp_path), batch_seconds=100, min_seconds=1, max_steps=1, use_cpu=True, disable_tqdm=True,
        dataloader_num_workers=0, crop_to_frames=crop_to_frames,
    )  # fmt: skip
    trainer = SpeechPreTrainer(model, arguments, train_dataset=rows)
    batch = next(iter(trainer.get_train_dataloader()))
    masks = []  # that reach the encoder
    model.base_model.register_forward_pre_hook(lambda _, arguments: masks.append(arguments[1]))
    model.train().set_update(0)
    items = (batch["labels"] != -100).sum()
    with NoReading():
        loss = trainer.training_step(model, batch, items)
    samples = np.array(rows["num_samples"])
    if crop_to_frames:
        samples = cropped_to_frames(samples, crop_to_frames, model.config.conv_layers)
    assert loss.isfinite() and int(trainer.samples) == samples.sum()
    assert (masks[0] is None) == bool(crop_to_frames)


def test_the_watch_sees_what_is_read():
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoReading():
        torch.ones(1).item()
