"""Models as ONNX files, for programs that have neither torch nor this package."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Wav2Vec2FeatureExtractor

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.hub.exchange import from_transformers, load_model
from hf_ssl_speech.models.encoder import SSLSpeechPreTrainedModel
from hf_ssl_speech.models.pretraining import SSLSpeechForPreTraining
from hf_ssl_speech.recognition.transcription import load_processor

NEEDED = ("onnx", "onnxscript")


class _Tensors(nn.Module):
    """A model whose inputs and output are plain tensors."""

    def __init__(self, model: SSLSpeechPreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_values: Tensor, attention_mask: Tensor) -> Tensor:
        output = self.model(input_values, attention_mask)
        return output.logits if "logits" in output else output.last_hidden_state


def export_onnx(model: PreTrainedModel | str | os.PathLike, path: str | os.PathLike) -> Path:
    """Writes an encoder, a CTC model or a classifier as an ONNX file that takes batches of any size and length.

    The graph takes `input_values` (float32) and `attention_mask` (int64, 1 on real samples), both `(batch, samples)`,
    and returns `logits` or `last_hidden_state`. A padded row has the same outputs as alone. The file's metadata hold
    `sampling_rate`, `normalize` (whether each waveform is brought to mean 0 and variance 1) and, of a CTC model in a
    folder, `tokens` (a JSON list of what each output writes: nothing for special tokens), `blank` and `word_delimiter`.

    Args:
        model: A model, ours or stock, or its folder or Hub id; of a pretraining model the encoder is written.
        path: The file, which ends in `.onnx`. Weights of more than 2 GB lie beside it.
    Returns:
        The path.
    Raises:
        ImportError: If the extra `onnx` is missing.
        ValueError: If the path does not end in `.onnx`, or the model is of another kind.
    """
    check_installed()
    if Path(path).suffix != ".onnx":
        raise ValueError(f"The file is {path}: give it a name that ends in .onnx.")
    source = None if isinstance(model, PreTrainedModel) else model
    model = model if source is None else load_model(source)
    if not isinstance(model, SSLSpeechPreTrainedModel):
        model = from_transformers(model)
    if isinstance(model, SSLSpeechForPreTraining):
        model = model.base_model

    was_training, like = model.training, next(model.parameters())
    try:
        program = _trace(model.eval().to("cpu", torch.float32))
    finally:
        model.to(like.device, like.dtype).train(was_training)
    program.model.metadata_props.update(_facts(model, source))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path))
    return Path(path)


def check_installed():
    """Raises an ImportError, with the way out, if a library of the extra `onnx` is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX files need {' and '.join(missing)}: pip install {' '.join(NEEDED)}")


def trace(
    module: nn.Module,
    example: tuple[Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    dynamic_shapes: tuple,
) -> torch.onnx.ONNXProgram:
    """The graph of a module of tensors in eval mode, with the dimensions of its inputs that may vary."""
    return torch.onnx.export(
        module,
        example,
        dynamo=True,
        verbose=False,
        input_names=input_names,
        output_names=output_names,
        dynamic_shapes=dynamic_shapes,
    )


def _trace(model: SSLSpeechPreTrainedModel) -> torch.onnx.ONNXProgram:
    """The graph, from an example with padding."""
    waveforms, mask = torch.zeros(2, SAMPLE_RATE), torch.ones(2, SAMPLE_RATE, dtype=torch.long)
    mask[1, SAMPLE_RATE // 2 :] = 0
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    output = "logits" if hasattr(model, "lm_head") or hasattr(model, "classifier") else "last_hidden_state"
    names = ["input_values", "attention_mask"]
    return trace(_Tensors(model).eval(), (waveforms, mask), names, [output], (any_size, any_size))


def _facts(model: SSLSpeechPreTrainedModel, source: str | os.PathLike | None) -> dict[str, str]:
    """The file's metadata: how audio is prepared, and what the outputs mean."""
    has_tokens = source is not None and hasattr(model, "lm_head")
    processor = load_processor(source) if has_tokens else None
    extractor: Wav2Vec2FeatureExtractor = feature_extractor_for(model.config, None if source is None else str(source))
    facts = {"sampling_rate": f"{SAMPLE_RATE}", "normalize": json.dumps(bool(extractor.do_normalize))}
    if processor:
        tokenizer = processor.tokenizer
        names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        unsaid = {*tokenizer.all_special_ids} - {tokenizer.word_delimiter_token_id}
        tokens = ["" if token in unsaid else name for token, name in enumerate(names)]
        facts |= {"tokens": json.dumps(tokens), "blank": f"{model.config.pad_token_id}"}
        facts["word_delimiter"] = tokenizer.word_delimiter_token or ""
    return facts
