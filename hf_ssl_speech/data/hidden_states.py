"""What is asked of an encoder whose hidden states are features: one layer, its weights' hash, no dropout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_ssl_speech.data.families import layers_of


class _LayerReached(Exception):
    """Carries the hidden state out of a model, past the layers that are not needed."""

    def __init__(self, hidden: Tensor):
        self.hidden = hidden


def hidden_state(encoder: PreTrainedModel, layer: int, inputs: dict[str, Tensor]) -> Tensor:
    """`hidden_states[layer]`, without the work of the layers above: `(batch, frames, width)`."""
    layers = layers_of(encoder)
    if layer == len(layers):  # after the last norm in some families
        return encoder(**inputs, output_hidden_states=True).hidden_states[layer]

    def stop(_: nn.Module, args: tuple, output: Any = None):
        found = args if layer == 0 else output
        raise _LayerReached(found[0] if isinstance(found, tuple) else found)

    hook = layers[0].register_forward_pre_hook(stop) if layer == 0 else layers[layer - 1].register_forward_hook(stop)
    try:
        encoder(**inputs)
    except _LayerReached as reached:
        return reached.hidden
    finally:
        hook.remove()
    raise RuntimeError(f"{type(encoder).__name__} ended without running its layer {layer}.")


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Keeps a model from dropping anything; its mode is put back."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def weights_hash(model: PreTrainedModel) -> str:
    """A hash of an encoder's weights, independent of their class, file and (wide enough) number format.

    Args:
        model: The encoder, or a model with it inside, whose head does not count.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.base_model.state_dict().items()):
        # Frames are hidden in training only, and some checkpoints leave out what they are replaced by.
        if name != "masked_spec_embed":
            digest.update(f"{name} {tuple(weight.shape)} ".encode())
            digest.update(weight.float().cpu().contiguous().numpy())
    return digest.hexdigest()[:32]
