"""Speech to text with any CTC model, ours or stock: loading, batches, windows of long recordings, transcripts."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub.errors import HFValidationError
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCTC,
    BatchFeature,
    FeatureExtractionMixin,
    PreTrainedModel,
    Wav2Vec2Processor,
)

from hf_ssl_speech.audio import SAMPLE_RATE, BadAudio
from hf_ssl_speech.data.batching import inference_batches, seconds_at_once
from hf_ssl_speech.data.families import Hearing, hearing_of
from hf_ssl_speech.data.feature_extractor import check_rate
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.files import naming_the_file
from hf_ssl_speech.models.classes import load_config
from hf_ssl_speech.models.frames import hop_samples, num_frames
from hf_ssl_speech.recognition.decoding import Decoder, GreedyDecoder
from hf_ssl_speech.recognition.normalization import TextNormalization
from hf_ssl_speech.recognition.text import fitting_normalization
from hf_ssl_speech.recognition.transcript import Alphabet, Transcript

logger = logging.getLogger(__name__)

NEEDED = ("name", "num_samples", "start", "channel", "problem", "audio", "samples")
# Audio longer than `LONGEST_SECONDS` is processed in windows. This much at both ends of a window is not used, except at
# the ends of the audio, so that every frame that is used has enough context.
LONGEST_SECONDS, WINDOW_SECONDS, OVERLAP_SECONDS = 40, 30, 5


def load_recognizer(
    name_or_path: str | os.PathLike, *, device: torch.device | str | None = None, language: str | None = None
) -> tuple[PreTrainedModel, Wav2Vec2Processor]:
    """Loads a CTC model and its processor, on a GPU where there is one.

    Args:
        name_or_path: Folder or Hub id of a fine-tuned model, ours or stock.
        device: Where to put it, if not on the GPU.
        language: The spoken language, for a model with adapters for many, as its vocabulary names it, such as `fra` or
            `azj-script_latin` of MMS; None takes the one it was saved with.
    Returns:
        The model in eval mode and float32, and what prepares its input and names its output.
    Raises:
        ValueError: If nothing can be loaded, it has no trained CTC head or no processor, the processor belongs to
            another model, or the model has no such language.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with naming_the_file(name_or_path, "the configuration of a recogniser"):
            config = load_config(name_or_path)
    except OSError as error:
        raise ValueError(f"No recogniser can be loaded from {name_or_path}: {error}") from error
    hearing_of(config, "ctc")
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
    processor = load_processor(name_or_path, language)
    if language:
        with naming_the_file(name_or_path, f"an adapter for {language}"):
            model.load_adapter(language)
    check_rate(processor.feature_extractor, str(name_or_path))
    with naming_the_file(name_or_path, "a recogniser whose parts belong together"):
        Alphabet(processor.tokenizer, model.config)
    return model.eval().to(device), processor


def load_processor(name_or_path: str | os.PathLike, language: str | None = None) -> Wav2Vec2Processor:
    """The processor of a CTC model.

    Args:
        name_or_path: Folder or Hub id.
        language: The language of the tokenizer's vocabulary, for a model with adapters for many languages.
    Raises:
        ValueError: If there is none, or it has no languages, or not this one; close names are shown.
    """
    try:
        with naming_the_file(name_or_path, "a processor"):
            processor = Wav2Vec2Processor.from_pretrained(name_or_path)
    except (OSError, HFValidationError) as error:
        raise ValueError(
            f"{name_or_path} has no processor (tokenizer and feature extractor): save the one it was trained with "
            f"there. {error}"
        ) from error
    if language:
        vocabulary = processor.tokenizer.vocab
        languages = [each for each, tokens in vocabulary.items() if isinstance(tokens, dict)]
        if not languages:
            raise ValueError(
                f"{name_or_path} has no adapters for languages, so none can be chosen: leave out `language`."
            )
        if language not in languages:
            close = [each for each in languages if each[:2] == language[:2]] or languages
            shown = ", ".join(close[:8])
            raise ValueError(f"{name_or_path} has no language {language!r}; it has {len(languages)}, such as {shown}.")
        processor.tokenizer.set_target_lang(language)
    return processor


def load_normalization(
    name_or_path: str | os.PathLike, processor: Wav2Vec2Processor, **otherwise: Any
) -> TextNormalization:
    """A model's normalisation: that of its file, else the one derived from its vocabulary, changed by `otherwise`."""
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
    batch_seconds: float | None = None,
    progress: bool = False,
) -> list[Transcript]:
    """Transcribes each row.

    Args:
        model: With a CTC head, on the device to compute on; it is put in eval mode.
        processor: Of the model.
        rows: As `prepare_speech` gives them.
        decoder: Finds the text; by default the likeliest token of each frame.
        batch_seconds: The most seconds in a batch, padding included; a longer row goes alone. By default 60, and 12 on
            a CPU.
        progress: Whether to show a bar.
    Returns:
        Transcripts in the order of the rows; empty, with a warning, if the audio is shorter than a frame, silent or
        unreadable.
    """
    decoder = decoder or GreedyDecoder(processor.tokenizer, model.config)
    lengths = _lengths(rows)
    found: dict[int, Transcript] = {}
    for places, logits, frames in compute_logits(model, processor, rows, batch_seconds, progress):
        heard = zip(places, decoder.decode(logits, frames))
        found |= {place: transcript.within(int(lengths[place]) / SAMPLE_RATE) for place, transcript in heard}
    return [found.get(place, Transcript()) for place in range(len(rows))]


@torch.no_grad()
def compute_logits(
    model: PreTrainedModel,
    processor: Wav2Vec2Processor,
    rows: Dataset | Sequence[Mapping[str, Any]],
    batch_seconds: float | None = None,
    progress: bool = False,
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Runs the model over rows, the longest first, with the same outputs as for each row alone.

    Rows of more than `LONGEST_SECONDS` are processed in windows that overlap, and the middles of these are joined: the
    model's memory does not grow with the length of a row.

    Args: as for `transcribe`.
    Yields:
        For each batch the places of its rows, logits `(batch, frames, vocabulary)` on the model's device and the real
        frames of each row, `(batch,)`. Rows without usable audio are in no batch; a warning names them.
    """
    if isinstance(rows, Dataset):
        rows = rows.select_columns([name for name in NEEDED if name in rows.column_names])
    lengths = np.array(_lengths(rows))
    batch_seconds = batch_seconds or seconds_at_once(model.device)
    listener = _Listener(model, hearing_of(model.config, "ctc"), processor.feature_extractor)
    is_long = lengths > LONGEST_SECONDS * SAMPLE_RATE
    model.eval()
    with tqdm(total=len(rows), unit="row", disable=not progress) as bar:
        for place in np.flatnonzero(is_long).tolist():
            waveform = listener.waveform(rows[place])
            bar.update()
            if waveform is not None:
                yield [place], *listener.hear_long(waveform, batch_seconds)
        for places in inference_batches(np.where(is_long, 0, lengths).tolist(), model.config, batch_seconds):
            waveforms = {place: listener.waveform(rows[place]) for place in places}
            bar.update(len(places))
            heard = [place for place in places if waveforms[place] is not None]
            if heard:
                yield heard, *listener.hear([waveforms[place] for place in heard])


def _lengths(rows: Dataset | Sequence[Mapping[str, Any]]) -> list[int]:
    return rows["num_samples"][:] if isinstance(rows, Dataset) else [row["num_samples"] for row in rows]


class Window(NamedTuple):
    """A part of a waveform that a model gets, and which of its outputs are used.

    Attributes:
        start, stop: Its samples.
        first, last: Its outputs that are used, counted from its own first.
    """

    start: int
    stop: int
    first: int
    last: int


def cut_windows(num_samples: int, hearing: Hearing) -> list[Window]:
    """Cuts a long waveform into windows whose outputs, joined, are as many as the whole's, each at the same time."""
    hop = hop_samples(hearing.output_layers)
    grid = math.lcm(hop, hop_samples(hearing.frame_layers))  # a window that starts there has its frames where they were
    overlap, length = (round(seconds * SAMPLE_RATE / grid) * grid for seconds in (OVERLAP_SECONDS, WINDOW_SECONDS))
    windows, start = [], 0
    while start + length < num_samples:
        windows.append(Window(start, start + length, overlap // hop if start else 0, (length - overlap) // hop))
        start += length - 2 * overlap
    rest = num_frames(num_samples, hearing.output_layers) - start // hop
    return [*windows, Window(start, num_samples, overlap // hop if start else 0, rest)]


@dataclass(frozen=True)
class _Listener:
    """A model that takes waveforms, with everything it needs for this."""

    model: PreTrainedModel
    hearing: Hearing
    extractor: FeatureExtractionMixin

    def waveform(self, row: Mapping[str, Any]) -> np.ndarray | None:
        """The waveform of a row, or None if it has no usable audio."""
        try:
            waveform = row_waveform(row)
            if len(waveform) < self.hearing.shortest_samples:
                raise BadAudio(f"{len(waveform)} samples are shorter than a frame")
        except BadAudio as reason:
            logger.warning("There is no usable audio in %s: %s", row["name"], reason)
            return None
        return waveform

    def hear(self, waveforms: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Logits `(batch, frames, vocabulary)` and frames `(batch,)` of waveforms that are short enough."""
        inputs = BatchFeature(self.hearing.inputs(self.extractor, waveforms)).to(self.model.device, self.model.dtype)
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        return self.model(**inputs).logits, num_frames(lengths, self.hearing.output_layers)

    def hear_long(self, waveform: np.ndarray, batch_seconds: float) -> tuple[Tensor, Tensor]:
        """Logits `(1, frames, vocabulary)` and frames `(1,)` of a waveform of any length."""
        listener, mean, deviation = self, np.float32(0), np.float32(1)
        if getattr(self.extractor, "do_normalize", False):  # by the whole, as it is without windows
            mean, deviation = mean_and_deviation(waveform)
            extractor: Any = copy.copy(self.extractor)
            extractor.do_normalize = False
            listener = replace(self, extractor=extractor)
        windows = cut_windows(len(waveform), self.hearing)
        at_once = max(1, int(batch_seconds / WINDOW_SECONDS))
        parts = []
        # The last window is of another length, so it goes alone: no padding is needed.
        batches = [windows[:-1][start : start + at_once] for start in range(0, len(windows) - 1, at_once)]
        for batch in [*batches, windows[-1:]]:
            heard = [(waveform[window.start : window.stop] - mean) / deviation for window in batch]
            logits, _ = listener.hear(heard)
            parts += [row[window.first : window.last] for row, window in zip(logits, batch)]
        joined = torch.cat(parts)[None]
        return joined, torch.tensor([joined.shape[1]])


def mean_and_deviation(waveform: np.ndarray) -> tuple[np.float32, np.float32]:
    """What `Wav2Vec2FeatureExtractor` normalises a waveform `(samples,)` by, without a copy of it."""
    mean = waveform.mean(dtype=np.float64)
    blocks = (waveform[start : start + SAMPLE_RATE] for start in range(0, len(waveform), SAMPLE_RATE))
    variance = sum(np.square(block - mean).sum(dtype=np.float64) for block in blocks) / len(waveform)
    return np.float32(mean), np.float32(math.sqrt(variance + 1e-7))
