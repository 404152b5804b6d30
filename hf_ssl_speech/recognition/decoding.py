"""From frames of logits to text: the likeliest token of each frame, or a beam search with a language model."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from hf_ssl_speech.files import as_dataclass, naming_the_file, read_json, write_json
from hf_ssl_speech.models.finite import check_finite
from hf_ssl_speech.models.objectives import frames_needed
from hf_ssl_speech.recognition.language_model import as_kenlm_reads, read_words, spellable_words
from hf_ssl_speech.recognition.transcript import Alphabet, Transcript

DECODER_FILE = "decoder.json"
# No token but the wanted one: a log probability that a beam never recovers from.
IMPOSSIBLE = -1e4
LOGITS = "The model's logits"
# What a wild card pays for a frame: where silence is as likely, the frame is silence.
WILDCARD_COST = 1e-3


class Decoder(ABC):
    """Turns a CTC model's logits into transcripts.

    Args:
        tokenizer: Of the model.
        config: Of the model.

    Attributes:
        alphabet: What the model writes with.
        settings: For records: `kind`, and all other settings that affect the text.
    Raises:
        ValueError: If tokenizer and model don't belong together.
    """

    settings: dict[str, Any]

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig):
        self.alphabet = Alphabet(tokenizer, config)

    def decode(self, logits: Tensor, num_frames: Tensor) -> list[Transcript]:
        """The transcript of each row.

        Args:
            logits: `(batch, frames, vocabulary)`, on any device.
            num_frames: Real frames of each row, `(batch,)`; a row without any is silent.
        Raises:
            ValueError: If real frames hold NaN or infinity.
        """
        log_probabilities = logits.float().log_softmax(-1).cpu()
        return [
            self.decode_row(row[:length]) if length > 0 else Transcript()
            for row, length in zip(log_probabilities, num_frames.tolist())
        ]

    @abstractmethod
    def decode_row(self, log_probabilities: Tensor) -> Transcript:
        """The transcript of one row, `(frames, vocabulary)` on the CPU; NaN is a ValueError."""


class GreedyDecoder(Decoder):
    """The likeliest token of each frame."""

    settings = {"kind": "greedy"}

    def decode_row(self, log_probabilities):
        check_finite(log_probabilities, LOGITS, logarithms=True)
        scores, path = log_probabilities.max(-1)
        return self.alphabet.read(path, scores)


@dataclass(frozen=True)
class BeamSettings:
    """The settings of a beam search.

    Attributes:
        language_model: ARPA file, or KenLM's binary, of words or of characters; None searches without.
        words: File with the words (or characters) of the language model, one in each line: needed for a binary
            one. Without a language model, the words to choose from; None lets the search write anything.
        lm_weight: Weight of the language model's log10 probabilities beside the model's natural logarithms.
        word_score: Added for each word.
        beam_size: Hypotheses kept from frame to frame.
        beam_threshold: A hypothesis that is worse than the best by more than this is dropped.
    Raises:
        ValueError: If a setting makes the search impossible.
    """

    language_model: str | None = None
    words: str | None = None
    lm_weight: float = 2.0
    word_score: float = 0.0
    beam_size: int = 100
    beam_threshold: float = 50.0

    def __post_init__(self):
        if self.beam_size < 1:
            raise ValueError(f"beam_size is {self.beam_size}: a search keeps at least one hypothesis.")
        if not self.beam_threshold > 0:
            raise ValueError(f"beam_threshold is {self.beam_threshold}; expected more than 0, such as 50.")
        for name in ("lm_weight", "word_score"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite number.")

    def save(self, folder: str | os.PathLike):
        """Writes `decoder.json`; files in the same folder are named relative to it."""
        fields = asdict(self)
        for name in ("language_model", "words"):
            path = fields[name] and Path(fields[name]).resolve()
            if path:
                inside = path.is_relative_to(Path(folder).resolve())
                fields[name] = str(path.relative_to(Path(folder).resolve()) if inside else path)
        write_json(fields, Path(folder, DECODER_FILE))

    @classmethod
    def load(cls, path: str | os.PathLike) -> BeamSettings:
        """Reads `decoder.json`, from its own path or that of its folder.

        Raises:
            ValueError: If it is not there, or holds other names.
        """
        file = Path(path, DECODER_FILE) if Path(path).is_dir() else Path(path)
        what = "settings of a beam search, as `hf-ssl-speech tune-decoder` writes them"
        if not file.exists():
            raise ValueError(f"There is no {file}: expected {what}.")
        fields = read_json(file, what)
        with naming_the_file(file, what):
            for name in ("language_model", "words"):
                fields[name] = fields.get(name) and str(file.parent / fields[name])
            return as_dataclass(cls, fields)


class BeamDecoder(Decoder):
    """Beam search by flashlight-text through torchaudio, with a KenLM n-gram model or without.

    A language model of words allows only its words; one of characters (and word delimiters) allows any text. Times are
    those of the found text aligned with the audio.

    Args:
        tokenizer: Of the model.
        config: Of the model.
        settings: Of the search.
    Raises:
        ImportError: If flashlight-text is not installed.
        ValueError: If a file does not exist or has another alphabet than the model.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, settings: BeamSettings | None = None
    ):
        super().__init__(tokenizer, config)
        settings = settings or BeamSettings()
        self.settings = {"kind": "beam", **asdict(settings)}
        # Special tokens are never said, so the search does not get to see them.
        self._ids = [self.alphabet.blank, *self.alphabet.characters]
        if self.alphabet.delimiter is not None:
            self._ids.append(self.alphabet.delimiter)
        entries = self._entries(settings)
        is_of_words = bool(entries) and not self._are_tokens(entries)
        self._words = spellable_words(entries, self.alphabet) if is_of_words else None
        self._search = self._build(settings, settings.language_model)
        self._beam = settings

    def reweighed(self, lm_weight: float, word_score: float) -> BeamDecoder:
        """The same search with other weights; the language model is shared, not loaded again."""
        other = copy.copy(self)
        other._beam = replace(self._beam, lm_weight=lm_weight, word_score=word_score)
        other.settings = self.settings | asdict(other._beam)
        other._search = self._build(other._beam, self._search.lm)
        return other

    def _entries(self, settings: BeamSettings) -> list[str] | None:
        """The entries of the language model: words, or characters."""
        for name in (settings.language_model, settings.words):
            if name and not Path(name).exists():
                raise ValueError(f"There is no file {name}.")
        source = settings.words or settings.language_model
        entries = read_words(source) if source else None
        if source and not entries:
            raise ValueError(f"{source} holds no words to choose from. Leave it out to let the search write anything.")
        return entries

    def _are_tokens(self, entries: Sequence[str]) -> bool:
        """Whether they are the characters of a text, delimiters included, and not words of one character."""
        tokens = {self._text(index) for index in self._ids}
        return tokens.issuperset(entries) and (self.alphabet.delimiter is None or "|" in entries)

    def _text(self, index: int) -> str:
        return "|" if index == self.alphabet.delimiter else self.alphabet.characters.get(index, "<blank>")

    def _build(self, settings: BeamSettings, language_model: Any):
        """The search; `language_model` is its file, or the one of another search."""
        try:
            from torchaudio.models.decoder import ctc_decoder
        except (ImportError, RuntimeError) as error:
            raise ImportError(
                "Beam search needs flashlight-text: pip install flashlight-text"
                if sys.version_info < (3, 13)
                else "Beam search needs flashlight-text, which exists for Python 3.11 and 3.12 but not yet for "
                f"{sys.version_info.major}.{sys.version_info.minor}: use one of these, or decode greedily."
            ) from error
        tokens = [self._text(index) for index in self._ids]
        common = dict(
            tokens=tokens,
            beam_size=settings.beam_size,
            beam_threshold=settings.beam_threshold,
            lm_weight=settings.lm_weight,
            log_add=True,  # a text is as likely as all its paths together
            blank_token="<blank>",
            # What stands between words is "silence" to flashlight; a language without such a thing has the blank.
            sil_token="<blank>" if self.alphabet.delimiter is None else "|",
        )
        if self._words is None:
            lines = tokens
        else:
            end = "" if self.alphabet.delimiter is None else " |"
            lines = [f"{word} {' '.join(self.alphabet.cut(word))}{end}" for word in self._words]
        is_file = isinstance(language_model, str)
        with (
            _text_file(lines) as file,
            as_kenlm_reads(language_model) if is_file else contextlib.nullcontext(language_model) as model,
        ):
            if self._words is None:
                # The language model must number characters as the model does, or each is scored as another.
                own = dict(lexicon=None, lm_dict=file, sil_score=settings.word_score)
            else:
                own = dict(lexicon=file, word_score=settings.word_score)
            try:
                return ctc_decoder(lm=model, **common, **own)
            except RuntimeError as error:
                raise ValueError(f"KenLM can't read {settings.language_model}: {error}") from error

    def decode_row(self, log_probabilities):
        """The best text of the beam, with times from its alignment."""
        check_finite(log_probabilities, LOGITS, logarithms=True)
        emissions = log_probabilities[:, self._ids]
        if self._words is not None and self.alphabet.delimiter is not None:
            # A word ends with a delimiter, which does not belong after the last one.
            end = torch.full_like(emissions[:1], IMPOSSIBLE)
            end[:, -1] = 0.0
            emissions = torch.cat([emissions, end])
        best = self._search(emissions[None].contiguous())[0][0]
        if self._words is not None:
            ids = self.alphabet.spell(" ".join(best.words))
        else:
            ids = self._strip([self._ids[index] for index in best.tokens.tolist()])
        path, scores = align_tokens(log_probabilities, ids, self.alphabet)
        return self.alphabet.read(path, scores, best.score)

    def _strip(self, ids: list[int]) -> list[int]:
        """Without the delimiters that flashlight puts around every text."""
        said = [place for place, index in enumerate(ids) if index != self.alphabet.delimiter]
        return ids[said[0] : said[-1] + 1] if said else []


@contextlib.contextmanager
def _text_file(lines: Iterable[str]) -> Iterator[str]:
    """A file with these lines, for as long as it takes to read it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lines.txt")
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        yield str(path)


def align_tokens(log_probabilities: Tensor, ids: Sequence[int], alphabet: Alphabet) -> tuple[Tensor, Tensor]:
    """The likeliest path that writes these tokens, and its scores (Viterbi).

    Models fill silence with blanks or, where they learnt a delimiter at the end of transcripts, with delimiters: before
    the first word, around each delimiter and after the last word a blank may also be a delimiter, whichever is
    likelier. A wild card takes any frame, each as its likeliest output.

    Args:
        log_probabilities: `(frames, vocabulary)`.
        ids: What is written, without blanks, as `Alphabet.spell` gives it.
        alphabet: The alphabet of the model.
    Returns:
        The id of each frame, `(frames,)`, silence as blanks but for the delimiters in `ids`; and the natural logarithms
        of their probabilities, float64 `(frames,)`, whose sum is the path's.
    Raises:
        ValueError: If there are too few frames: one for each token, and one more between equal ones. If they hold NaN,
            or no path writes the tokens, as minus infinity rules one out.
    """
    check_finite(log_probabilities, LOGITS, logarithms=True)
    needed = int(frames_needed(torch.tensor(ids)))
    if needed > len(log_probabilities):
        raise ValueError(
            f"Its {len(ids)} characters need {needed} frames, but the audio makes {len(log_probabilities)}."
        )
    # A blank stands before, between and after the tokens; `columns` tells which log probability each of them has.
    tokens = np.full(2 * len(ids) + 1, alphabet.blank)
    tokens[1::2] = ids
    between_words = np.array([True, *(token == alphabet.delimiter for token in ids), True])
    columns = tokens.copy()
    columns[::2][between_words[:-1] | between_words[1:]] = alphabet.wildcard + 1
    emissions = log_probabilities.double().cpu().numpy()
    silence = [alphabet.blank] if alphabet.delimiter is None else [alphabet.blank, alphabet.delimiter]
    extra = [emissions.max(-1) - WILDCARD_COST, emissions[:, silence].max(-1)]
    emissions = np.column_stack([emissions, *extra])
    states = _best_states(emissions, tokens, columns, alphabet.blank)
    scores = np.take_along_axis(emissions, columns[states][:, None], axis=1)[:, 0]
    return torch.from_numpy(tokens[states]), torch.from_numpy(scores)


def _best_states(emissions: np.ndarray, tokens: np.ndarray, columns: np.ndarray, blank: int) -> np.ndarray:
    """The state of each frame on the best way through tokens and blanks, `(frames,)`.

    A frame stays in its state or goes to the next, or over a blank between two different tokens. Of the ways to each
    state only those of one block of frames are held; the blocks before are gone through again from their first frame.
    Memory grows with the square root of the frames.
    """
    skip_costs = np.full(len(tokens), -np.inf)
    skip_costs[2:][(tokens[2:] != blank) & (tokens[2:] != tokens[:-2])] = 0.0
    block = math.isqrt(len(emissions)) + 1
    best = np.full(len(tokens), -np.inf)
    best[:2] = emissions[0, columns[:2]]
    bests = [best]  # at the first frame of each block, and at the last of all
    for start in range(0, len(emissions), block):
        bests.append(_run_block(bests[-1], emissions[start + 1 : start + block + 1], columns, skip_costs))
    if np.isinf(bests[-1][-2:]).all():
        raise ValueError("It can't be what is said: the model's logits rule out a character of it, by minus infinity.")
    states = np.zeros(len(emissions), np.int64)
    states[-1] = len(tokens) - 1 - bests.pop()[::-1][:2].argmax()
    for start in range(len(emissions) - 1 - (len(emissions) - 1) % block, -1, -block):
        here = emissions[start + 1 : start + block + 1]
        steps = np.zeros((len(here), len(tokens)), np.int8)
        _run_block(bests.pop(), here, columns, skip_costs, steps)
        for frame in range(len(here), 0, -1):
            state = states[start + frame]
            states[start + frame - 1] = state - steps[frame - 1, state]
    return states


def _run_block(
    best: np.ndarray,
    emissions: np.ndarray,
    columns: np.ndarray,
    skip_costs: np.ndarray,
    steps: np.ndarray | None = None,
) -> np.ndarray:
    """The score of the best way to each state after some more frames, `(states,)`.

    Args:
        best: Before them.
        emissions: Of these frames.
        columns: Which emission each state has.
        skip_costs: Added on the way over a blank, `(states,)`: 0 where it is open, else minus infinity.
        steps: Gets for each frame how many states each best way went on, `(frames, states)`.
    """
    held = np.full(len(best) + 2, -np.inf)
    held[2:] = best
    stay, step, skip = held[2:], held[1:-1], np.empty_like(best)
    for frame, emission in enumerate(emissions):
        np.add(held[:-2], skip_costs, out=skip)
        reached = np.maximum(stay, step)
        if steps is not None:
            np.greater(step, stay, out=steps[frame], casting="unsafe")
            steps[frame, skip > reached] = 2
        np.maximum(reached, skip, out=reached)
        np.add(reached, emission[columns], out=stay)
    return stay.copy()
