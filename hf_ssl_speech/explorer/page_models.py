"""The models of a page: ONNX graphs that share one file of 16-bit weights, so that they are small and fast.

HuBERT comes in two graphs, so that hiding frames runs only the second again. A recogniser that was fine-tuned from it
by LoRA needs but its adapters and its head beside the same weights.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.explorer.adapters import Letters
from hf_ssl_speech.hub.onnx_export import check_installed, trace
from hf_ssl_speech.models import objectives
from hf_ssl_speech.models.pretraining import SSLHubertForPreTraining

# Bits of the large weights of each graph. The page's limits on size and on error leave 15 to the largest.
BITS = {"frames": 16, "context": 15, "letters": 15}
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


class Weights:
    """The file of all that graphs hold in common: what is put twice is kept once."""

    FILE = "weights.bin"

    def __init__(self):
        self.content = bytearray()
        self.places: dict[bytes, int] = {}

    def tensor(self, values: np.ndarray, name: str) -> Any:
        """An ONNX tensor whose values are in the file."""
        from onnx import TensorProto, helper

        content = values.tobytes()
        if content not in self.places:
            self.places[content] = len(self.content)
            self.content += content
        tensor = TensorProto(name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        facts = {"location": self.FILE, "offset": self.places[content], "length": len(content)}
        for key, value in facts.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def write_models(model: SSLHubertForPreTraining, folder: Path, *, normalize: bool, letters: Letters | None = None):
    """Writes `frames.onnx.gz`, `context.onnx.gz`, with a recogniser `letters.onnx.gz`, and their `weights.bin.gz`.

    Args:
        model: HuBERT with its head, in eval mode; the page names the units of its first set.
        folder: Where to.
        normalize: Whether waveforms are brought to mean 0 and variance 1.
        letters: The recogniser.
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
    if letters is not None:
        graphs["letters"] = trace(letters.eval(), (hidden,), ["frames"], ["letters"], (any_length,))
    weights = Weights()
    for name, program in graphs.items():
        graph = _without_comments(_in_integers(program.model_proto, weights, BITS[name]))
        write_packed(folder / f"{name}.onnx.gz", graph.SerializeToString())
    write_packed(folder / f"{Weights.FILE}.gz", bytes(weights.content))


def write_packed(path: Path, content: bytes):
    """Compresses, the same content to the same bytes."""
    path.write_bytes(gzip.compress(content, 9, mtime=0))


def _in_integers(graph, weights: Weights, bits: int):
    """Large weights as integers with a scale for each slice of their first dimension.

    In 15 bits the error is 1 in 32,000 of the largest, where float16 has 1 in 2,000 of every value. High and low bytes
    stand apart, because only the high ones can be compressed. The runtime makes floats of them once, when it loads the
    graph.
    """
    from onnx import TensorProto, helper, numpy_helper

    levels, nodes = 2 ** (bits - 1) - 1, []
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(256), "high_byte"))
    for tensor in list(graph.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALL_TENSOR:
            continue
        axes = tuple(range(1, values.ndim)) or None
        scales = np.maximum(np.abs(values).max(axes, keepdims=True), 1e-30).astype(np.float32) / levels
        integers = np.rint(values / scales).astype(np.int16)
        name = tensor.name
        high, low, scale = (f"{name}.{part}" for part in ("high", "low", "scale"))
        graph.graph.initializer.remove(tensor)
        graph.graph.initializer.extend(
            [
                weights.tensor((integers >> 8).astype(np.int8), high),
                weights.tensor((integers & 255).astype(np.uint8), low),
                weights.tensor(scales, scale),
            ]
        )
        nodes += [
            helper.make_node("Cast", [high], [f"{high}_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{high}_float", "high_byte"], [f"{high}_value"]),
            helper.make_node("Cast", [low], [f"{low}_float"], to=TensorProto.FLOAT),
            helper.make_node("Add", [f"{high}_value", f"{low}_float"], [f"{name}.integers"]),
            helper.make_node("Mul", [f"{name}.integers", scale], [name]),
        ]
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
