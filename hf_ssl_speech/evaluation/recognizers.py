"""One interface for the speech recognisers of transformers: CTC models, and Whisper and similar models."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    BatchFeature,
    LogitsProcessor,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.batching import seconds_at_once
from hf_ssl_speech.data.families import hearing_of
from hf_ssl_speech.data.feature_extractor import check_rate
from hf_ssl_speech.data.pieces import cut_at_pauses
from hf_ssl_speech.data.preparing import row_waveform
from hf_ssl_speech.models.classes import load_config
from hf_ssl_speech.models.finite import check_finite
from hf_ssl_speech.recognition.decoding import BeamDecoder, BeamSettings, Decoder, GreedyDecoder
from hf_ssl_speech.recognition.transcription import load_recognizer, transcribe

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 30
# A Whisper with at least this many outputs is multilingual.
MULTILINGUAL_TOKENS = 51_865
# More than anybody says, in scripts too whose letters are three tokens each; and for the shortest audio.
TOKENS_A_SECOND, MORE_TOKENS = 50, 20
# What Whisper's texts begin with: start, language, task, no timestamps.
PROMPT_TOKENS = 4


class Recognizer(ABC):
    """A model that transcribes speech.

    Attributes:
        name: Folder or Hub id that it came from.
        decoder: How it finds the text, for records: `kind` and settings.
    """

    def __init__(self, name: str, model: PreTrainedModel, processor: ProcessorMixin, decoder: dict[str, Any]):
        self.name = name
        self.model = model
        self.processor = processor
        self.decoder = decoder

    @abstractmethod
    def texts(self, rows: Dataset) -> list[str]:
        """The transcript of each prepared row, in the order of the rows."""


class CTCRecognizer(Recognizer):
    """A model with a CTC head, ours or stock.

    Args:
        search: Finds the text in the logits.
        batch_seconds: Audio that the model gets at a time, padding included.
    """

    def __init__(self, name, model, processor, search: Decoder, *, batch_seconds: float | None = None):
        super().__init__(name, model, processor, search.settings)
        self.search = search
        self.batch_seconds = batch_seconds

    def texts(self, rows):
        settings = {"decoder": self.search, "batch_seconds": self.batch_seconds}
        return [transcript.text for transcript in transcribe(self.model, self.processor, rows, **settings)]


class Seq2SeqRecognizer(Recognizer):
    """An encoder with a decoder that writes token after token (greedily), such as Whisper, in windows.

    A row that is longer than a window, 30 s in Whisper, is cut at pauses and its texts are joined.

    Args:
        language: The spoken language, for multilingual Whisper; with None it detects the language.
        batch_seconds: Audio that the model gets at a time, in whole windows.
    Raises:
        ValueError: If the model does not know the language, or takes none.
    """

    def __init__(self, name, model, processor, *, language: str | None = None, batch_seconds: float | None = None):
        self.settings = language_settings(name, model, processor, language)
        super().__init__(name, model, processor, {"kind": "greedy", **self.settings})
        self.model.generation_config.max_length = None  # `LimitedLength` says how long
        self.hearing = hearing_of(model.config, "tokens")
        self.window_samples = self.hearing.longest_samples or WINDOW_SECONDS * SAMPLE_RATE
        at_once = batch_seconds or seconds_at_once(model.device)
        self.batch_windows = max(1, int(at_once * SAMPLE_RATE / self.window_samples))

    def texts(self, rows):
        """Window by window, the longest rows first."""
        longest_first = np.argsort(-np.array(rows["num_samples"]), kind="stable").tolist()
        windows = (
            (place, window)
            for place in longest_first
            for window in cut_at_pauses([row_waveform(rows[place])], self.window_samples)
        )
        parts: list[list[str]] = [[] for _ in longest_first]
        for batch in self._batches(windows):
            for (place, _), text in zip(batch, self._write([window for _, window in batch])):
                parts[place].append(text.strip())
        return [" ".join(filter(None, texts)) for texts in parts]

    def _batches(self, windows: Iterable[tuple[int, np.ndarray]]) -> Iterator[list[tuple[int, np.ndarray]]]:
        """Windows that the model gets at a time: of one length only, if it would hear the padding of the shorter."""
        together = self.hearing.leaves_padding_out
        for _, group in groupby(windows, key=lambda window: together or len(window[1])):
            while batch := list(islice(group, self.batch_windows)):
                yield batch

    @torch.inference_mode()
    def _write(self, waveforms: list[np.ndarray]) -> list[str]:
        inputs = BatchFeature(self.hearing.inputs(self.processor.feature_extractor, waveforms)).to(self.model.device)
        ends = self.model.generation_config.eos_token_id
        limit = LimitedLength([len(each) / SAMPLE_RATE for each in waveforms], ends)
        config = self.model.config
        room = getattr(config, "max_target_positions", None) or getattr(config, "max_position_embeddings", None)
        most = min(max(limit.most_tokens), (room or max(limit.most_tokens) + PROMPT_TOKENS) - PROMPT_TOKENS)
        tokens = self.model.generate(
            **inputs, do_sample=False, num_beams=1, max_new_tokens=most, logits_processor=[limit], **self.settings
        )
        if limit.ended:
            logger.warning(
                "%s did not stop writing in %d of %d windows; it was cut off after more tokens than anybody says.",
                self.name, len(limit.ended), len(waveforms),
            )  # fmt: skip
        return self.processor.batch_decode(tokens, skip_special_tokens=True)


class LimitedLength(LogitsProcessor):
    """Ends each text once it has more tokens than can be said in its time, and refuses logits that are NaN.

    Args:
        seconds: Length of each audio of the batch.
        ends: Ids of the tokens that end a text; without any, texts are not ended.

    Attributes:
        most_tokens: Of each text.
        ended: Places of the texts that were ended.
    """

    def __init__(self, seconds: Sequence[float], ends: int | Sequence[int] | None):
        self.most_tokens = [MORE_TOKENS + math.ceil(TOKENS_A_SECOND * each) for each in seconds]
        self.end = ends[0] if isinstance(ends, (list, tuple)) and ends else ends
        self.ended: set[int] = set()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        check_finite(scores, "The model's logits", logarithms=True)
        if not isinstance(self.end, int) or len(scores) != len(self.most_tokens):
            return scores
        over = {place for place, most in enumerate(self.most_tokens) if input_ids.shape[1] >= most}
        over = {place for place in over if int(input_ids[place, -1]) != self.end}
        self.ended |= over
        for place in over:
            scores[place] = -math.inf
            scores[place, self.end] = 0.0
        return scores


def language_settings(
    name: str, model: PreTrainedModel, processor: ProcessorMixin, language: str | None
) -> dict[str, Any]:
    """The arguments of `generate` for task and language: none, unless the model is a multilingual Whisper.

    Where its generation config is of the time before it told of languages, they are read off the tokenizer.

    Raises:
        ValueError: If a language is asked for that the model does not know.
    """
    settings = model.generation_config
    is_whisper = model.config.model_type == "whisper"
    if is_whisper and not hasattr(settings, "is_multilingual") and model.config.vocab_size >= MULTILINGUAL_TOKENS:
        ids = processor.tokenizer.get_vocab()
        settings.is_multilingual = True
        codes = TO_LANGUAGE_CODE.values()
        settings.lang_to_id = {f"<|{code}|>": ids[f"<|{code}|>"] for code in codes if f"<|{code}|>" in ids}
        settings.task_to_id = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
        settings.no_timestamps_token_id = ids["<|notimestamps|>"]
    if getattr(settings, "is_multilingual", False):
        if language is not None:
            code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
            if f"<|{code}|>" not in settings.lang_to_id:
                known = ", ".join(token.strip("<|>") for token in settings.lang_to_id)
                raise ValueError(f"{name} does not know {language!r}: <|{code}|> is not supported. It knows {known}.")
        return {"task": "transcribe", "language": language}
    if language is not None and not (is_whisper and language.lower() in ("en", "english")):
        kind = "writes English only" if is_whisper else f"is a {type(model).__name__}, which takes no language"
        raise ValueError(f"The language {language!r} was asked for, but {name} {kind}.")
    return {}


def is_seq2seq(name_or_path: str) -> bool:
    """Whether a checkpoint writes token after token, as Whisper does; otherwise CTC is expected of it.

    Raises:
        ValueError: If there is no checkpoint, or its family can do neither here.
    """
    try:
        config = load_config(name_or_path)
    except (OSError, ValueError) as error:
        raise ValueError(f"No recogniser can be loaded from {name_or_path!r}: {error}") from error
    writes_tokens = type(config) in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING
    hearing_of(config, "tokens" if writes_tokens else "ctc")
    return writes_tokens


def load_ctc(
    name_or_path: str,
    *,
    beam: BeamSettings | None = None,
    device: str | torch.device | None = None,
    batch_seconds: float | None = None,
    language: str | None = None,
) -> CTCRecognizer:
    """Loads a model with a CTC head, see `load_recognizer`.

    Args:
        beam: How to search for the text; None takes the likeliest token of each frame.
        language: The spoken language, for a model with adapters for many.
    Raises:
        ValueError: If there is no such model, it has no CTC head, or the language model is of another alphabet.
    """
    model, processor = load_recognizer(name_or_path, device=device, language=language)
    parts = (processor.tokenizer, model.config)
    search = BeamDecoder(*parts, beam) if beam else GreedyDecoder(*parts)
    return CTCRecognizer(name_or_path, model, processor, search, batch_seconds=batch_seconds)


def load_seq2seq(name_or_path: str, *, device: str | torch.device | None = None, **settings) -> Seq2SeqRecognizer:
    """Loads Whisper, or another encoder with a decoder, in float32.

    Args:
        settings: More arguments of `Seq2SeqRecognizer`.
    Raises:
        ValueError: If weights or processor are missing, or its family can't write token after token here.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        hearing_of(load_config(name_or_path), "tokens")
        processor = AutoProcessor.from_pretrained(name_or_path)
        model = AutoModelForSpeechSeq2Seq.from_pretrained(name_or_path, dtype=torch.float32).to(device).eval()
    except OSError as error:
        raise ValueError(f"No recogniser can be loaded from {name_or_path!r}: {error}") from error
    check_rate(processor.feature_extractor, name_or_path)
    return Seq2SeqRecognizer(name_or_path, model, processor, **settings)
