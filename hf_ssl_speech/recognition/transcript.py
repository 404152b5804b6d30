"""What was said, and when: words and characters with their times, read off a path of tokens over frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, Wav2Vec2PhonemeCTCTokenizer

from hf_ssl_speech.data.families import hearing_of

# Over so long a stretch the mean is taken that tells of a bad transcript; ctc-segmentation has 30 frames of 20 ms.
CONFIDENCE_SECONDS = 0.6
# Logarithm of a probability that is as good as none; sums stay finite with it.
LOWEST = -1e3


class Span(NamedTuple):
    """A word or character and the part of the audio where it was recognised.

    Attributes:
        text: The word or character.
        start: Where its first frame begins, in seconds.
        end: Where its last frame ends, in seconds.
        score: The mean probability of its token over its frames, 0 to 1; None for a word that can't be spelt.
    """

    text: str
    start: float
    end: float
    score: float | None = None


@dataclass(frozen=True)
class Transcript:
    """What was recognised in one audio; empty if nothing was.

    Attributes:
        text: The words, one space between.
        words: With their times, from the first to the last of their characters. A word's score is the mean of its
            characters', each weighed by its frames.
        characters: With their times, without the spaces between words.
        score: Natural logarithm of the path's probability; in a beam search with the share of the language model.
        confidence: The lowest mean probability (geometric) over any 0.6 s of the path, 0 to 1, as in ctc-segmentation:
            low where other words were said, or words that are not in the transcript.
    """

    text: str = ""
    words: Sequence[Span] = ()
    characters: Sequence[Span] = ()
    score: float = 0.0
    confidence: float = 1.0

    def within(self, seconds: float) -> Transcript:
        """The same, with times from 0 to the end of the audio: the frames of an adapter reach beyond it."""

        def fit(spans: Sequence[Span]) -> list[Span]:
            bounds = ((max(span.start, 0.0), min(span.end, seconds)) for span in spans)
            return [span._replace(start=start, end=end) for span, (start, end) in zip(spans, bounds)]

        return replace(self, words=fit(self.words), characters=fit(self.characters))


class Spelling:
    """How a tokenizer's tokens write a text: characters, or several characters each such as phones.

    Args:
        tokenizer: Its special tokens (padding, unknown, start and end of text) write nothing.
        num_outputs: Outputs of the head; a word delimiter beyond them is none. None if there is no head yet.

    Attributes:
        characters: The text of each id that writes some.
        delimiter: Id of what stands between words, whichever token it is; None if there is none.
        wildcard: Id that no token has. In alignment it takes the place of a word that can't be spelt.
        apart: Whether a space follows each token, as with phones; each of them is a word then.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, num_outputs: int | None = None):
        self.apart = writes_tokens_apart(tokenizer)
        self.characters = written_tokens(tokenizer)
        self.wildcard = len(tokenizer.get_vocab()) if num_outputs is None else num_outputs
        # Tokenizers add special tokens after the vocabulary: the head has no output for these.
        delimiter = delimiter_id(tokenizer)
        self.delimiter = delimiter if delimiter is not None and delimiter < self.wildcard else None
        self._ids = {character: index for index, character in self.characters.items()}
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._pieces = re.compile("|".join(map(re.escape, longest_first)) or "(?!)", re.DOTALL)

    def unknown(self, text: str) -> set[str]:
        """The characters of a text, or the phones, that the head can't write."""
        return {piece for word in text.split() for piece in self.cut(word) if piece not in self._ids}

    def spell(self, text: str, *, wild: bool = False) -> list[int]:
        """The ids that write a text, with a delimiter between words if the head has one.

        Where several tokens begin alike, the longest that fits is taken.

        Args:
            wild: Whether a word that can't be spelt becomes the wild card.
        Raises:
            ValueError: If the text holds characters that are not of this alphabet, and `wild` is not set.
        """
        unknown = self.unknown(text)
        if unknown and not wild:
            raise ValueError(f"{text!r} holds {self.describe(unknown)}.")
        between = [] if self.delimiter is None or self.apart else [self.delimiter]
        ids: list[int] = []
        for word in text.split():
            pieces = self.cut(word)
            spelt = [self.wildcard] if unknown.intersection(pieces) else [self._ids[piece] for piece in pieces]
            ids += (between if ids else []) + spelt
        return ids

    def cut(self, word: str) -> list[str]:
        """The tokens of a word, and the single characters that are in none."""
        if self.apart:
            return [word]
        pieces, place = [], 0
        while place < len(word):
            found = self._pieces.match(word, place)
            pieces.append(found[0] if found else word[place])
            place += len(pieces[-1])
        return pieces

    def describe(self, unknown: set[str]) -> str:
        """What is wrong with these characters, in words."""
        named = f"{'phones' if self.apart else 'characters'} that the model can't write ({' '.join(sorted(unknown))})"
        in_other_case = {character.swapcase() for character in unknown} & self._ids.keys()
        if 2 * len(in_other_case) > len(unknown):
            return f"{named}: it writes {'upper' if min(in_other_case).isupper() else 'lower'} case only"
        return named


class Alphabet(Spelling):
    """The tokens and times of a CTC head.

    Args:
        tokenizer: The tokenizer the model was trained with; its pad token is the blank.
        config: The model's configuration, for the size of the head and the time from frame to frame.

    Attributes:
        blank: Id of the blank.
        hop_seconds: Time from one frame to the next.
        first_seconds: Where the first frame begins.
    Raises:
        ValueError: If tokenizer and head don't belong together.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig):
        super().__init__(tokenizer, config.vocab_size)
        self.blank = tokenizer.pad_token_id
        hearing = hearing_of(config, "ctc")
        self.hop_seconds, self.first_seconds = hearing.output_seconds, hearing.first_output_seconds
        if self.blank != config.pad_token_id:
            raise ValueError(
                f"The tokenizer's pad token has the id {self.blank}, but the model's blank is config.pad_token_id = "
                f"{config.pad_token_id}: load the tokenizer that the model was trained with."
            )
        largest, size = max([*self.characters, self.blank]), len(tokenizer.get_vocab())
        if largest >= config.vocab_size or config.vocab_size > size:
            raise ValueError(
                f"The tokenizer has {size} tokens, the last character is number {largest}, but the head has "
                f"{config.vocab_size} outputs: load the tokenizer that the model was trained with."
            )

    def read(
        self, path: Tensor, frame_scores: Tensor, score: float | None = None, wild: Sequence[str] = ()
    ) -> Transcript:
        """The words of a path, with their times and scores.

        Args:
            path: The id of each frame, `(frames,)`. Runs of one id are one token; the blank parts equal ones.
            frame_scores: Natural logarithm of the probability of each of them, `(frames,)`.
            score: Of the path; by default their sum.
            wild: The words that the path's wild cards stand for, in their order.
        """
        ids, lengths = torch.unique_consecutive(path.cpu(), return_counts=True)
        ends = lengths.cumsum(0)
        sums = torch.cat([torch.zeros(1, dtype=torch.float64), frame_scores.double().cpu().exp().cumsum(0)])
        means = (sums[ends] - sums[ends - lengths]) / lengths
        wild_words = iter(wild)
        words: list[list[tuple[Span, int]]] = [[]]
        runs = zip(ids.tolist(), ends.tolist(), lengths.tolist(), means.tolist())
        for index, end, length, mean in runs:
            if index == self.delimiter:
                words.append([])
            elif index in self.characters or index == self.wildcard:
                is_wild = index == self.wildcard
                text = next(wild_words) if is_wild else self.characters[index]
                start, end = (self.first_seconds + frame * self.hop_seconds for frame in (end - length, end))
                words[-1].append((Span(text, start, end, None if is_wild else min(mean, 1.0)), length))
                if self.apart:
                    words.append([])
        words = [word for word in words if word]
        whole = [_whole_word(*zip(*word)) for word in words]
        characters = [character for word in words for character, _ in word]
        score = frame_scores.double().sum().item() if score is None else score
        confidence = lowest_mean(frame_scores, round(CONFIDENCE_SECONDS / self.hop_seconds))
        return Transcript(" ".join(word.text for word in whole), whole, characters, score, confidence)


def lowest_mean(scores: Tensor, width: int) -> float:
    """The exponential of the lowest mean of `width` neighbours, or of all if there are fewer, of logarithms."""
    floored = scores.double().cpu().clamp(min=LOWEST)
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), floored.cumsum(0)])
    width = max(1, min(width, len(floored)))
    return ((sums[width:] - sums[:-width]) / width).min().exp().item()


def _whole_word(characters: Sequence[Span], frames: Sequence[int]) -> Span:
    """A word of its characters and the number of frames of each."""
    known = [(each.score, length) for each, length in zip(characters, frames) if each.score is not None]
    score = sum(mean * length for mean, length in known) / sum(length for _, length in known) if known else None
    return Span("".join(each.text for each in characters), characters[0].start, characters[-1].end, score)


def writes_tokens_apart(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer puts a space after each token, as those of phoneme recognisers do."""
    return isinstance(tokenizer, Wav2Vec2PhonemeCTCTokenizer)


def delimiter_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the token between words: the one the tokenizer names, whichever it is, else a space of its vocabulary."""
    ids = tokenizer.get_vocab()
    # Not the public attribute, which logs an error where there is no delimiter.
    named = getattr(tokenizer, "_word_delimiter_token", None)
    # One that the vocabulary lacks was added behind it by transformers.
    if named is None or str(named) not in tokenizer.encoder:
        return ids.get(" ", ids.get(str(named)))
    return ids[str(named)]


def written_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The text of each id that stands for text: neither special tokens nor the word delimiter."""
    special, delimiter = set(tokenizer.all_special_tokens), delimiter_id(tokenizer)
    lower = getattr(tokenizer, "do_lower_case", False)
    return {
        index: token.lower() if lower else token
        for token, index in tokenizer.get_vocab().items()
        if token not in special and index != delimiter
    }
