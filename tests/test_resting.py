"""Weights that rest in an update have no gradient, in DistributedDataParallel as without it; no graph is searched."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from conftest import tiny_model
from torch.nn.parallel import DistributedDataParallel

from hf_ssl_speech import SSLWav2Vec2ForCTC
from hf_ssl_speech.training.resting import reaching_all, rest


@pytest.fixture
def one_process():
    """A group of one process, in which DistributedDataParallel exchanges gradients with nobody."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_dropped_layers_and_a_frozen_encoder_rest_over_all_micro_batches_of_an_update():
    model = tiny_model(SSLWav2Vec2ForCTC, vocab_size=7, layerdrop=0.4).train()
    plain, model.thaw_update = copy.deepcopy(model), 2
    plain.thaw_update = 2
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    mask = torch.zeros(1, model.num_frames(4_000), dtype=torch.bool)
    masks = dict(mask_time_indices=mask, mask_feature_indices=torch.zeros(1, 32, dtype=torch.bool))
    batches = [dict(input_values=torch.randn(1, 4_000), labels=torch.tensor([[3, 4]]), **masks) for _ in range(2)]
    rested = []
    for update in range(5):
        for each in (plain, model):
            each.set_update(update)
            each.zero_grad()
        for number, batch in enumerate(batches):
            plain(**batch).loss.backward()
            with nullcontext() if number else wrapped.no_sync():
                reaching_all(wrapped(**batch).loss, wrapped, model).backward()
            rest(model)
        for ours, theirs in zip(model.parameters(), plain.parameters()):
            assert (ours.grad is None) == (theirs.grad is None)
            assert ours.grad is None or torch.equal(ours.grad, theirs.grad)
        rested.append(sum(weight.grad is None for weight in model.parameters()))
    encoder, layer = (len(list(part.parameters())) for part in (model.base_model, model.base_model.encoder.layers[0]))
    assert rested == [encoder, encoder, layer, 3 * layer, layer]
