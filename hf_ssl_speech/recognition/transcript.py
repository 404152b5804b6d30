"""What was said, and when: words and characters with their times, read off a path of tokens over frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from hf_ssl_speech.audio import SAMPLE_RATE


class Span(NamedTuple):
    """A word or character and the stretch of audio it was heard in.

    Attributes:
        text: The word or character.
        start: Where its first frame begins, in seconds.
        end: Where its last frame ends, in seconds.
    """

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Transcript:
    """What was heard in one audio; empty if nothing was.

    Attributes:
        text: The words, one space between.
        words: With their times, from the first to the last of their characters.
        characters: With their times, without the spaces between words.
        score: Natural logarithm of the path's probability; in a beam search with the share of the language model.
    """

    text: str = ""
    words: Sequence[Span] = ()
    characters: Sequence[Span] = ()
    score: float = 0.0


class Alphabet:
    """The characters that a CTC head writes with.

    Args:
        tokenizer: Of the model; its pad token is the blank.
        config: Of the model, for the size of the head and the time from frame to frame.

    Attributes:
        blank: Id of the blank.
        delimiter: Id of what stands between words; None if the tokenizer has no such token.
        characters: The character of each other id. Special tokens (unknown, start and end of text) are none.
        hop_seconds: Time from one frame to the next.
    Raises:
        ValueError: If tokenizer and head don't belong together.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig):
        ids = tokenizer.get_vocab()
        special = set(tokenizer.all_special_tokens)
        lower = getattr(tokenizer, "do_lower_case", False)
        self.blank = tokenizer.pad_token_id
        self.characters = {
            index: token.lower() if lower else token for token, index in ids.items() if token not in special
        }
        self._ids = {character: index for index, character in self.characters.items()}
        # Tokenizers add special tokens after the vocabulary: the head has no output for these.
        delimiter = ids.get(getattr(tokenizer, "word_delimiter_token", None), config.vocab_size)
        self.delimiter = delimiter if delimiter < config.vocab_size else None
        self.hop_seconds = config.inputs_to_logits_ratio / SAMPLE_RATE
        if self.blank != config.pad_token_id:
            raise ValueError(
                f"The tokenizer's pad token has the id {self.blank}, but the model's blank is config.pad_token_id = "
                f"{config.pad_token_id}: load the tokenizer that the model was trained with."
            )
        largest = max([*self.characters, self.blank])
        if largest >= config.vocab_size or config.vocab_size > len(ids):
            raise ValueError(
                f"The tokenizer has {len(ids)} tokens, the last character is number {largest}, but the head has "
                f"{config.vocab_size} outputs: load the tokenizer that the model was trained with."
            )

    def unknown(self, text: str) -> set[str]:
        """The characters of a text that the head can't write."""
        return {character for character in text if not character.isspace()} - self._ids.keys()

    def spell(self, text: str) -> list[int]:
        """The ids that write a text, with a delimiter between words.

        Raises:
            ValueError: If it holds characters that are not of this alphabet.
        """
        unknown = self.unknown(text)
        if unknown:
            raise ValueError(f"{text!r} holds {self.describe(unknown)}.")
        between = [] if self.delimiter is None else [self.delimiter]
        ids: list[int] = []
        for word in text.split():
            ids += (between if ids else []) + [self._ids[character] for character in word]
        return ids

    def describe(self, unknown: set[str]) -> str:
        """What is wrong with these characters, in words."""
        named = f"characters that the model can't write ({' '.join(sorted(unknown))})"
        in_other_case = {character.swapcase() for character in unknown} & self._ids.keys()
        if 2 * len(in_other_case) > len(unknown):
            return f"{named}: it writes {'upper' if min(in_other_case).isupper() else 'lower'} case only"
        return named

    def read(self, path: Tensor, score: float = 0.0) -> Transcript:
        """The words of a path, with their times.

        Args:
            path: The id of each frame, `(frames,)`. Runs of one id are one character; the blank parts equal ones.
            score: Of the path.
        """
        ids, lengths = torch.unique_consecutive(path.cpu(), return_counts=True)
        ends = lengths.cumsum(0)
        words: list[list[Span]] = [[]]
        for index, start, end in zip(ids.tolist(), (ends - lengths).tolist(), ends.tolist()):
            if index == self.delimiter:
                words.append([])
            elif index in self.characters:
                span = Span(self.characters[index], start * self.hop_seconds, end * self.hop_seconds)
                words[-1].append(span)
        words = [word for word in words if word]
        whole = [Span("".join(each.text for each in word), word[0].start, word[-1].end) for word in words]
        characters = [character for word in words for character in word]
        return Transcript(" ".join(word.text for word in whole), whole, characters, score)
