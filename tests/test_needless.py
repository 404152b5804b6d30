"""A pretraining step computes no gradient of the waveform, and no logits of frames that it does not predict."""

import numpy as np
import pytest
import torch
from conftest import BASE, LARGE, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_ssl_speech import SSLHubertForPreTraining, SSLWav2Vec2ForPreTraining
from hf_ssl_speech.data.collators import pretraining_collator

SAMPLES = 9_001  # no other tensor has a side of this length
UNITS, NEGATIVES, DIM = 37, 6, 13  # and these widths have only the heads


class Shapes(TorchDispatchMode):
    """Notes the shape of all that any operator gives."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        result = operator(*arguments, **(keywords or {}))
        self.seen += [tuple(each.shape) for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        return result


@pytest.fixture(params=[SSLWav2Vec2ForPreTraining, SSLHubertForPreTraining], ids=["wav2vec2", "hubert"])
def make(request):
    """`make(**config_fields)`: a tiny model in training, and a batch of two rows, of which one is padded."""

    def make_model(**fields):
        is_hubert = request.param is SSLHubertForPreTraining
        head = dict(num_units=[UNITS]) if is_hubert else dict(num_negatives=NEGATIVES, proj_codevector_dim=DIM)
        model = tiny_model(request.param, **head, **fields).train()
        model.set_update(0)
        rows = [
            {
                "sample_id": row,
                "name": str(row),
                "num_samples": samples,
                "samples": np.random.default_rng(row).integers(-3000, 3000, samples, dtype=np.int16),
                "units": np.zeros(model.num_frames(samples), dtype=np.int64),
            }
            for row, samples in enumerate((SAMPLES, SAMPLES - 2_000))
        ]
        batch = pretraining_collator(model.config, normalize=False)(rows)
        return model, {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}

    return make_model


@pytest.mark.parametrize("is_fast", [True, False], ids=["channels last", "plain"])
@pytest.mark.parametrize("sizes", [BASE, LARGE], ids=["base", "large"])
def test_no_gradient_of_the_waveform_is_computed(make, sizes, is_fast, monkeypatch):
    if not is_fast:
        monkeypatch.setattr("hf_ssl_speech.models.conv_encoder.is_fast", lambda _: False)
    model, batch = make(**sizes)
    loss = model(**batch).loss
    with Shapes() as shapes:
        loss.backward()
    assert model.base_model.feature_extractor.conv_layers[0].conv.weight.grad is not None
    # A view of what was saved has the batch's samples too, so only a tensor of them all would be a gradient.
    assert not [shape for shape in shapes.seen if SAMPLES in shape]


def test_logits_are_made_of_masked_frames_only(make):
    model, batch = make()
    masked, frames = batch["masked_positions"].shape[1], batch["labels"].shape[1]
    assert masked < frames
    with Shapes() as shapes:
        loss = model(**batch).loss
        loss.backward()
    is_hubert = isinstance(model, SSLHubertForPreTraining)
    widths = {UNITS} if is_hubert else {1 + NEGATIVES, DIM}
    made = {shape for shape in shapes.seen if shape and shape[-1] in widths}
    assert {(2, masked, width) for width in widths} <= made
    assert not [shape for shape in made if frames in shape or 2 * frames in shape]
