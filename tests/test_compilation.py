"""Blocks are compiled once for all lengths, layers and updates, and compute what they compute uncompiled."""

import copy

import numpy as np
import pytest
import torch
from conftest import BASE, LARGE, tiny_model
from datasets import Dataset
from torch._dynamo.utils import counters

from hf_ssl_speech import (
    DurationBatchSampler,
    SpeechPreTrainer,
    SpeechPreTrainingArguments,
    SSLHubertForPreTraining,
    SSLWav2Vec2ForPreTraining,
    prepare_speech,
)
from hf_ssl_speech.data.collators import pretraining_collator
from hf_ssl_speech.models.compilation import compile_blocks
from hf_ssl_speech.models.conv_encoder import ConvLayerBlock
from hf_ssl_speech.models.transformer import TransformerLayer

EXACT = 1e-10  # in float64
MOST_GRAPHS = 12
OBJECTIVES = [SSLWav2Vec2ForPreTraining, SSLHubertForPreTraining]


@pytest.fixture(autouse=True)
def nothing_is_compiled_yet():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def graphs() -> int:
    assert not counters["graph_break"], dict(counters["graph_break"])
    return counters["stats"]["unique_graphs"]


def batch_of(model, lengths, **settings) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(0)
    rows = []
    for number, samples in enumerate(lengths):
        noise = generator.integers(-3000, 3000, samples).astype(np.int16)
        units = generator.integers(0, 10, model.num_frames(samples))
        facts = {"name": "", "sample_id": number, "num_samples": samples}
        rows.append(facts | {"samples": noise, "units": units})
    batch = pretraining_collator(model.config, normalize=True, **settings)(rows)
    return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}


def loss_and_gradients(model, batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return {"loss": loss.detach()} | {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in model.named_parameters()
    }


@pytest.mark.slow
@pytest.mark.parametrize("crop_to_frames", [0, 16])
@pytest.mark.parametrize("model_class", OBJECTIVES)
def test_an_epoch_of_read_speech_takes_a_dozen_graphs_and_no_update_another_one(model_class, crop_to_frames):
    model = tiny_model(model_class, layerdrop=0.4, hidden_dropout=0.1).train()
    # As in LibriSpeech: most utterances have 12 to 16 seconds, the others any length above 2.
    generator = np.random.default_rng(0)
    seconds = np.concatenate([generator.uniform(2, 12, 50), generator.uniform(12, 15.6, 90)])
    lengths = np.round(seconds * 16_000).astype(np.int64)
    collator = pretraining_collator(model.config, normalize=True, crop_to_frames=crop_to_frames)
    sampler = DurationBatchSampler(lengths, batch_seconds=47, max_seconds=15.6, crop=collator.crop_lengths)
    compile_blocks(model, backend="aot_eager")
    shapes = set()
    for update, rows in enumerate(sampler):
        if len(rows) == 1:
            continue  # a number of 1 is never a variable of a graph
        model.set_update(update)
        batch = batch_of(model, lengths[rows], crop_to_frames=crop_to_frames)
        shapes.add(batch["input_values"].shape)
        loss_and_gradients(model, batch)
    assert len(shapes) > MOST_GRAPHS
    assert 0 < graphs() <= MOST_GRAPHS


@pytest.mark.slow
@pytest.mark.parametrize("model_class", OBJECTIVES)
@pytest.mark.parametrize("sizes", [BASE, LARGE], ids=["base", "large"])
def test_compiled_blocks_give_the_loss_and_gradients_of_plain_ones(model_class, sizes):
    plain = tiny_model(model_class, num_hidden_layers=2, layerdrop=0.4, **sizes).double().train()
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled, backend="aot_eager")
    found = []
    for update, lengths in enumerate([(9_000, 9_000), (7_000, 8_000)]):
        batch = batch_of(plain, lengths)
        batch["input_values"] = batch["input_values"].double()
        for model in (plain, compiled):
            model.set_update(update)
        expected, given = loss_and_gradients(plain, batch), loss_and_gradients(compiled, batch)
        for name, value in expected.items():
            assert (given[name] - value).abs().max() < EXACT, name
        found.append(graphs())
    assert 0 < found[0] <= found[1] <= MOST_GRAPHS
    kinds = counters["stats"]["unique_graphs"]
    compiled.eval()(**batch)  # out of training nothing is compiled
    assert counters["stats"]["unique_graphs"] == kinds


@pytest.mark.parametrize("kind", [ConvLayerBlock, TransformerLayer])
def test_inductor_makes_one_graph_of_a_block_for_all_lengths(kind):
    model = tiny_model(SSLHubertForPreTraining).train()
    blocks = [module for module in model.modules() if isinstance(module, kind)][1:3]  # both of one kind
    plain = copy.deepcopy(blocks)
    channels = 16 if kind is ConvLayerBlock else 32
    for block in blocks:
        compile_blocks(block, backend="inductor")
    for batch, frames in ((2, 50), (3, 71), (2, 128)):
        inputs = torch.randn(batch, frames, channels)
        for block, other in zip(blocks, plain):
            values = {}
            for each in (block, other):
                given = inputs.clone().requires_grad_()
                out = each(given)
                out = out[0] if isinstance(out, tuple) else out
                values[each] = [out, *torch.autograd.grad(out.sin().sum(), [given, *each.parameters()])]
            for mine, theirs in zip(values[block], values[other]):
                torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert graphs() == 1


@pytest.mark.slow
def test_a_training_that_is_compiled_ends_with_the_weights_of_one_that_is_not(tmp_path):
    waves = [np.random.default_rng(samples).normal(size=samples) / 8 for samples in (16_000, 17_000, 18_000, 20_000)]
    audio = [{"id": str(len(wave)), "audio": {"array": wave, "sampling_rate": 16_000}} for wave in waves]
    rows, _ = prepare_speech(Dataset.from_list(audio), min_seconds=1, cache=True)
    weights = []
    for settings in ({}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}):
        torch.manual_seed(0)
        model = tiny_model(SSLWav2Vec2ForPreTraining, layerdrop=0.4)
        arguments = SpeechPreTrainingArguments(
            output_dir=str(tmp_path), batch_seconds=3, max_seconds=2, min_seconds=1, max_steps=4, use_cpu=True,
            disable_tqdm=True, dataloader_num_workers=0, report_to="none", learning_rate=0.1, optim="sgd", **settings,
        )  # fmt: skip
        trainer = SpeechPreTrainer(model, arguments, train_dataset=rows)
        trainer.train()
        assert trainer.model_wrapped is model  # which is not compiled as a whole
        weights.append(model.state_dict())
    assert 0 < graphs() <= MOST_GRAPHS
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-3, atol=1e-4)
