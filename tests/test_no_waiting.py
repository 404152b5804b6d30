"""A training step reads no number from the device: on a GPU the host would have to wait for it."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import tiny_model
from datasets import Dataset
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from hf_ssl_speech import (
    SpeechPreTrainer,
    SpeechPreTrainingArguments,
    SSLHubertForPreTraining,
    SSLWav2Vec2ForPreTraining,
    prepare_speech,
)
from hf_ssl_speech.data.collators import cropped_to_frames
from hf_ssl_speech.data.hidden_states import hidden_state
from hf_ssl_speech.models.products import onednn_is_faster
from hf_ssl_speech.units.nearest import NearestCentroid

# What gives a number, a truth or a shape that depends on values.
READ_BY_THE_HOST = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "is_nonzero", "_unique2")


MODELS = [SSLWav2Vec2ForPreTraining, SSLHubertForPreTraining]


class NoReading(TorchDispatchMode):
    is_off = False

    @contextmanager
    def off(self):
        self.is_off = True
        yield
        self.is_off = False

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        assert self.is_off or operator.overloadpacket.__name__ not in READ_BY_THE_HOST, operator
        return operator(*arguments, **(keywords or {}))


@pytest.fixture(autouse=True, scope="module")
def _the_processor_is_known():
    onednn_is_faster()  # tries it once, and compares the result


@pytest.fixture
def make_trainer(tmp_path):
    """Makes a trainer of a tiny model on three rows of different lengths."""

    def make(model_class, **settings) -> SpeechPreTrainer:
        waves = [np.random.default_rng(samples).normal(size=samples) / 8 for samples in (16_000, 18_000, 20_000)]
        audio = [{"id": str(len(wave)), "audio": {"array": wave, "sampling_rate": 16_000}} for wave in waves]
        rows, _ = prepare_speech(Dataset.from_list(audio), min_seconds=1, cache=True)
        model = tiny_model(model_class, layerdrop=0.1, hidden_dropout=0.1)
        if model_class is SSLHubertForPreTraining:
            rows = rows.add_column("units", [[0] * model.num_frames(samples) for samples in rows["num_samples"]])
        settings = {"max_steps": 1, "batch_seconds": 100, **settings}
        arguments = SpeechPreTrainingArguments(
            output_dir=str(tmp_path), min_seconds=1, use_cpu=True, disable_tqdm=True, dataloader_num_workers=0,
            report_to="none", **settings,
        )  # fmt: skip
        return SpeechPreTrainer(model, arguments, train_dataset=rows)

    return make


@pytest.mark.parametrize("crop_to_frames", [0, 16])
@pytest.mark.parametrize("model_class", MODELS)
def test_a_step_reads_no_number_and_batches_of_one_length_bring_no_mask(model_class, crop_to_frames, make_trainer):
    trainer = make_trainer(model_class, crop_to_frames=crop_to_frames)
    model, rows = trainer.model, trainer.train_dataset
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
    assert loss.isfinite() and trainer.samples == samples.sum()
    assert (masks[0] is None) == bool(crop_to_frames)


@pytest.mark.parametrize("crop_to_frames", [0, 16])
@pytest.mark.parametrize("model_class", MODELS)
def test_nothing_is_read_from_one_log_to_the_next(model_class, crop_to_frames, make_trainer, monkeypatch):
    trainer = make_trainer(
        model_class, crop_to_frames=crop_to_frames, max_steps=5, max_seconds=1.3, batch_seconds=2.6,
        gradient_accumulation_steps=2, keep_failed_step=False, logging_first_step=False, save_strategy="no",
    )  # fmt: skip
    watch, watched = NoReading(), []
    collate = trainer.data_collator.__class__.__call__

    def beside(collator, rows):  # the collator's own numbers are no device's
        with watch.off():
            return collate(collator, rows)

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            watched.append(state.global_step)
            watch.__enter__()

        def on_step_end(self, args, state, control, **_):
            watch.__exit__(None, None, None)

    monkeypatch.setattr(trainer.data_collator.__class__, "__call__", beside)
    trainer.add_callback(Watch())
    trainer.train()
    assert watched == [0, 1, 2, 3, 4] and trainer.samples == 0 and trainer.tally.samples_seen > 0


@pytest.mark.parametrize("model_class", MODELS)
def test_no_copy_to_the_device_is_waited_for(model_class, make_trainer, monkeypatch):
    trainer = make_trainer(model_class)
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop("skipped_rows")
    copies = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
            keywords = keywords or {}
            if operator.overloadpacket.__name__ == "_to_copy" and keywords.get("device") == torch.device("meta"):
                copies.append(keywords.get("non_blocking", False))
            return operator(*arguments, **keywords)

    monkeypatch.setattr(SpeechPreTrainingArguments, "device", torch.device("meta"))
    with Spy():
        inputs = trainer._prepare_inputs(batch)
        items = trainer._get_num_items_in_batch([batch, batch], torch.device("meta"))
    assert all(each.is_meta for each in (*inputs.values(), items))
    assert len(copies) == len(batch) + 2 and all(copies)


@pytest.mark.parametrize("crop_to_frames", [0, 16])
@pytest.mark.parametrize("model_class", MODELS)
def test_the_loss_on_a_gpu_needs_nothing_from_the_host(model_class, crop_to_frames, make_trainer):
    """Fake CUDA tensors have a shape and a device, and no values: whoever reads one, or mixes devices, is refused."""
    trainer = make_trainer(model_class, crop_to_frames=crop_to_frames)
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop("skipped_rows")
    fake = FakeTensorMode()
    with fake, torch.device("cuda"):
        model = model_class(trainer.model.config).train()
    model.base_model.encoder.set_update(0)  # which layers run is drawn on the CPU
    with fake:
        inputs = {name: fake.from_tensor(value).to("cuda") for name, value in batch.items()}
        outputs = model(**inputs, num_items_in_batch=torch.ones((), dtype=torch.long, device="cuda"))
        assert {value.device.type for value in (outputs.loss, *outputs.statistics.values())} == {"cuda"}


def test_labels_on_a_gpu_need_nothing_from_the_host(monkeypatch):
    # As in a graph that is captured, no sample is looked at.
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    encoder = tiny_model(SSLHubertForPreTraining).base_model
    with FakeTensorMode():
        with torch.device("cuda"):
            encoder, centroids = type(encoder)(encoder.config).eval(), torch.randn(10, 32)
            waveforms = torch.randn(2, 16_000)
        with torch.no_grad():
            hidden = hidden_state(encoder, 2, {"input_values": waveforms})
        units = NearestCentroid(centroids, torch.bfloat16)(hidden.flatten(0, 1))
        assert units.device.type == "cuda" and len(units) == 2 * encoder.num_frames(16_000)


def test_the_watch_sees_what_is_read():
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoReading():
        torch.ones(1).item()
