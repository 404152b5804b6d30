"""The model of a page: two ONNX graphs with 15-bit weights, so that it is small and hiding frames is fast."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.hub.onnx_export import check_installed, trace
from hf_ssl_speech.models import objectives
from hf_ssl_speech.models.pretraining import SSLHubertForPreTraining

LEVELS = 2**14 - 1
SMALL_TENSOR = 1_000  # values; norms, biases and the like are not worth their scales


class Frames(nn.Module):
    """The part that masking does not touch: waveforms to the transformer's input."""

    def __init__(self, model: SSLHubertForPreTraining, normalize: bool):
        super().__init__()
        self.encoder, self.normalize = model.hubert, normalize

    def forward(self, waveforms: Tensor) -> Tensor:
        if self.normalize:
            centred = waveforms - waveforms.mean(-1, keepdim=True)
            waveforms = centred / (centred.square().mean(-1, keepdim=True) + 1e-7).sqrt()
        hidden, _ = self.encoder.feature_projection(self.encoder.feature_extractor(waveforms, None))
        return hidden  # (batch, frames, hidden)


class Context(nn.Module):
    """The transformer on frames of which some are hidden, and the head that names units."""

    def __init__(self, model: SSLHubertForPreTraining):
        super().__init__()
        self.encoder = model.hubert
        self.to_unit_space, self.unit_embedding = model.to_unit_space[0], model.unit_embeddings[0]
        self.temperature = model.config.unit_logits_temperature

    def forward(self, frames: Tensor, hidden_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(batch, frames, units)`, and the last hidden state `(batch, frames, hidden)`."""
        frames = torch.where(hidden_frames[..., None] > 0, self.encoder.masked_spec_embed, frames)
        hidden, _, _ = self.encoder.encoder(frames, None, output_hidden_states=False, output_attentions=False)
        projected = self.to_unit_space(hidden)
        return objectives.unit_logits(projected, self.unit_embedding.weight, self.temperature), hidden


def write_models(model: SSLHubertForPreTraining, folder: Path, *, normalize: bool):
    """Writes `frames.onnx.gz` and `context.onnx.gz`.

    Args:
        model: HuBERT with its head, in eval mode; the page names the units of its first set.
        folder: Where to.
        normalize: Whether waveforms are brought to mean 0 and variance 1.
    Raises:
        ImportError: If the extra `onnx` is missing.
    """
    check_installed()
    any_length = {1: torch.export.Dim.DYNAMIC}
    example = torch.zeros(1, SAMPLE_RATE)
    frames = Frames(model, normalize).eval()
    with torch.no_grad():
        hidden = frames(example)
    graphs = {
        "frames": trace(frames, (example,), ["waveforms"], ["frames"], (any_length,)),
        "context": trace(
            Context(model).eval(),
            (hidden, torch.zeros(hidden.shape[:2])),
            ["frames", "hidden_frames"],
            ["logits", "hidden"],
            (any_length, any_length),
        ),
    }
    for name, program in graphs.items():
        graph = _without_comments(_in_15_bits(program.model_proto))
        (folder / f"{name}.onnx.gz").write_bytes(gzip.compress(graph.SerializeToString(), 9, mtime=0))


def _in_15_bits(graph):
    """Large weights as integers with a scale for each slice of their first dimension.

    The error is 1 in 32,000 of the largest, where float16 has 1 in 2,000 of every value. High and low bytes stand
    apart, because only the high ones can be compressed. The runtime makes floats of them once, when it loads the graph.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes = []
    for tensor in list(graph.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALL_TENSOR:
            continue
        axes = tuple(range(1, values.ndim)) or None
        scales = np.maximum(np.abs(values).max(axes, keepdims=True), 1e-30).astype(np.float32) / LEVELS
        name = tensor.name
        integers = np.rint(values / scales).astype(np.int16)
        graph.graph.initializer.remove(tensor)
        graph.graph.initializer.extend(
            [
                numpy_helper.from_array((integers >> 8).astype(np.int8), f"{name}.high"),
                numpy_helper.from_array((integers & 255).astype(np.uint8), f"{name}.low"),
                numpy_helper.from_array(scales * 256, f"{name}.high_scale"),
                numpy_helper.from_array(scales, f"{name}.low_scale"),
            ]
        )
        for part in ("high", "low"):
            part = f"{name}.{part}"
            nodes += [
                helper.make_node("Cast", [part], [f"{part}_float"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{part}_float", f"{part}_scale"], [f"{part}_value"]),
            ]
        nodes.append(helper.make_node("Add", [f"{name}.high_value", f"{name}.low_value"], [name]))
    others = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*nodes, *others])
    return graph


def _without_comments(graph):
    """The exporter notes for each node where in the source it comes from: more bytes than the graph itself."""
    del graph.graph.value_info[:]
    for node in graph.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for entry in [*graph.graph.input, *graph.graph.output, *graph.graph.initializer]:
        del entry.metadata_props[:]
    return graph
