"""Speech to text with any CTC model, ours or stock: loading, batches, transcripts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub.errors import HFValidationError
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCTC, PreTrainedModel, Wav2Vec2Processor

from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio
from hf_ssl_speech.data.batching import inference_batches
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.files import naming_the_file
from hf_ssl_speech.models.frames import ConvLayer, num_frames
from hf_ssl_speech.recognition.decoding import Decoder, GreedyDecoder
from hf_ssl_speech.recognition.normalization import TextNormalization
from hf_ssl_speech.recognition.text import fitting_normalization
from hf_ssl_speech.recognition.transcript import Alphabet, Transcript

logger = logging.getLogger(__name__)

NEEDED = ("name", "num_samples", "start", "audio", "samples")


def load_recognizer(
    name_or_path: str | os.PathLike, *, device: torch.device | str | None = None, language: str | None = None
) -> tuple[PreTrainedModel, Wav2Vec2Processor]:
    """Loads a CTC model and its processor, on a GPU where there is one.

    Args:
        name_or_path: Folder or Hub id of a fine-tuned model, ours or stock.
        device: Where to put it, if not there.
        language: Which of its languages a model with adapters for many hears, as its vocabulary names them, such as
            `fra` or `azj-script_latin` of MMS; None takes the one it was saved with.
    Returns:
        The model in eval mode and float32, and what prepares its input and names its output.
    Raises:
        ValueError: If nothing that can be loaded is there, it has no trained CTC head, no processor, the processor is
            another model's, or the model has no such language.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with naming_the_file(name_or_path, "the configuration of a recogniser"):
            config = AutoConfig.from_pretrained(name_or_path)
    except OSError as error:
        raise ValueError(f"No recogniser can be loaded from {name_or_path}: {error}") from error
    if not hasattr(config, "conv_kernel"):
        raise ValueError(
            f"{name_or_path} is a {config.model_type} model; expected a wav2vec 2.0 or HuBERT model with a CTC head."
        )
    try:
        with naming_the_file(name_or_path, "a recogniser"):
            model, report = AutoModelForCTC.from_pretrained(name_or_path, dtype=torch.float32, output_loading_info=True)
    except OSError as error:
        raise ValueError(f"{name_or_path} has no weights that can be loaded: {error}") from error
    if any(name.startswith("lm_head.") for name in report["missing_keys"]):
        kind = (config.architectures or ["encoder"])[0]
        raise ValueError(
            f"{name_or_path} is a {kind} without a CTC head, so it can't transcribe: fine-tune it on transcripts with "
            "`hf-ssl-speech finetune` first."
        )
    processor = load_processor(name_or_path)
    if language:
        choose_language(model, processor, language)
    if processor.feature_extractor.sampling_rate != SAMPLE_RATE:
        raise ValueError(
            f"{name_or_path} was trained at {processor.feature_extractor.sampling_rate} Hz; expected {SAMPLE_RATE}."
        )
    with naming_the_file(name_or_path, "a recogniser whose parts belong together"):
        Alphabet(processor.tokenizer, model.config)
    return model.eval().to(device), processor


def choose_language(model: PreTrainedModel, processor: Wav2Vec2Processor, language: str):
    """Gives a model with adapters for many languages, such as MMS, the adapter, head and vocabulary of one.

    Raises:
        ValueError: If the model has no adapters, or none for this language; close names are told.
    """
    name, vocabulary = model.config._name_or_path, processor.tokenizer.vocab
    languages = [each for each, tokens in vocabulary.items() if isinstance(tokens, dict)]
    if getattr(model.config, "adapter_attn_dim", None) is None or not languages:
        raise ValueError(f"{name} has no adapters for languages, so none can be chosen: leave out `language`.")
    if language not in languages:
        close = [each for each in languages if each[:2] == language[:2]] or languages
        shown = ", ".join(close[:8])
        raise ValueError(f"{name} has no language {language!r}; it has {len(languages)}, such as {shown}.")
    processor.tokenizer.set_target_lang(language)
    with naming_the_file(name, f"an adapter for {language}"):
        model.load_adapter(language)


def load_processor(name_or_path: str | os.PathLike) -> Wav2Vec2Processor:
    """The processor of a CTC model.

    Raises:
        ValueError: If there is none.
    """
    try:
        with naming_the_file(name_or_path, "a processor"):
            return Wav2Vec2Processor.from_pretrained(name_or_path)
    except (OSError, HFValidationError) as error:
        raise ValueError(
            f"{name_or_path} has no processor (tokenizer and feature extractor): save the one it was trained with "
            f"there. {error}"
        ) from error


def load_normalization(
    name_or_path: str | os.PathLike, processor: Wav2Vec2Processor, **otherwise: Any
) -> TextNormalization:
    """How a model's transcripts are written: as its file says, else as its vocabulary tells but for `otherwise`."""
    try:
        return TextNormalization.from_pretrained(name_or_path)
    except OSError:
        return replace(fitting_normalization(processor.tokenizer), **otherwise)


def transcribe(
    model: PreTrainedModel,
    processor: Wav2Vec2Processor,
    rows: Dataset | Sequence[Mapping[str, Any]],
    *,
    decoder: Decoder | None = None,
    batch_seconds: float = 60.0,
    progress: bool = False,
) -> list[Transcript]:
    """What is said in each row.

    Args:
        model: With a CTC head, on the device to compute on; it is put in eval mode.
        processor: Of the model.
        rows: As `prepare_speech` gives them.
        decoder: Finds the text; by default the likeliest token of each frame.
        batch_seconds: The most seconds in a batch, padding included; a longer row goes alone. For recordings of many
            minutes use transformers' pipeline with `chunk_length_s`.
        progress: Whether to show a bar.
    Returns:
        Transcripts in the order of the rows; empty where the audio is shorter than a frame, silent or unreadable, which
        a warning tells.
    """
    decoder = decoder or GreedyDecoder(processor.tokenizer, model.config)
    found: dict[int, Transcript] = {}
    for places, logits, frames in compute_logits(model, processor, rows, batch_seconds, progress):
        found |= zip(places, decoder.decode(logits, frames))
    return [found.get(place, Transcript()) for place in range(len(rows))]


@torch.no_grad()
def compute_logits(
    model: PreTrainedModel,
    processor: Wav2Vec2Processor,
    rows: Dataset | Sequence[Mapping[str, Any]],
    batch_seconds: float = 60.0,
    progress: bool = False,
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Runs the model over rows, the longest first, each as if it came alone.

    Args: as for `transcribe`.
    Yields:
        For each batch the places of its rows, logits `(batch, frames, vocabulary)` on the model's device and the real
        frames of each row, `(batch,)`. Rows that nothing can be heard in are in no batch; a warning names them.
    """
    if isinstance(rows, Dataset):
        rows = rows.select_columns([name for name in NEEDED if name in rows.column_names])
    lengths = rows["num_samples"] if isinstance(rows, Dataset) else [row["num_samples"] for row in rows]
    conv_layers = [ConvLayer(*each) for each in zip(model.config.conv_kernel, model.config.conv_stride)]
    model.eval()
    with tqdm(total=len(rows), unit="row", disable=not progress) as bar:
        for places in inference_batches(lengths, model.config, batch_seconds):
            waveforms = {place: _waveform(rows[place], conv_layers) for place in places}
            bar.update(len(places))
            heard = [place for place in places if waveforms[place] is not None]
            if heard:
                yield heard, *_run(model, processor, [waveforms[place] for place in heard], conv_layers)


def _waveform(row: Mapping[str, Any], conv_layers: Sequence[ConvLayer]) -> np.ndarray | None:
    """The waveform of a row, None if nothing can be heard in it."""
    try:
        waveform = row_waveform(row)
        if num_frames(len(waveform), conv_layers) < 1:
            raise BadAudio(f"{len(waveform)} samples are shorter than a frame")
    except BadAudio as reason:
        logger.warning("Nothing is heard in %s: %s", row["name"], reason)
        return None
    return waveform


def _run(
    model: PreTrainedModel, processor: Wav2Vec2Processor, waveforms: list[np.ndarray], conv_layers: Sequence[ConvLayer]
) -> tuple[Tensor, Tensor]:
    """Logits `(batch, frames, vocabulary)` and frames `(batch,)` of waveforms."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    inputs = processor.feature_extractor(
        waveforms, sampling_rate=SAMPLE_RATE, padding=True, return_attention_mask=True, return_tensors="pt"
    ).to(model.device, model.dtype)
    mask = inputs.attention_mask if lengths.min() < lengths.max() else None
    return model(inputs.input_values, attention_mask=mask).logits, num_frames(lengths, conv_layers)
