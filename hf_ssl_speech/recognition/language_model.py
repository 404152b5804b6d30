"""n-gram language models for beam search: made from text, and checked against what a model can write."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import itertools
import logging
import lzma
import math
import os
import shutil
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from hf_ssl_speech.recognition.transcript import Alphabet

logger = logging.getLogger(__name__)

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
# Discounts for a corpus that is too small to estimate them: KenLM's fallback values.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
MOST_UNSPELLABLE = 0.05
# KenLM reads no longer n-grams, unless it was built for them.
LONGEST_ORDER = 6
IRSTLM = "iARPA"
ARPA_START = "\\data\\"  # SRILM lets any text stand before it
KENLM_BINARY = b"mmap lm http://kheafield.com/code"
PACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
OTHER_PACKERS = {b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7-Zip", b"\x28\xb5\x2f\xfd": "Zstandard"}
BYTE_ORDER_MARKS = {  # UTF-32's begins as UTF-16's does
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

NGram = tuple[str, ...]


def write_ngram(sentences: Iterable[str], path: str | os.PathLike, *, order: int = 3) -> dict[str, int]:
    """Estimates an n-gram model by interpolated modified Kneser-Ney smoothing (Chen and Goodman, 1998, section 3).

    Every n-gram of the text is kept in memory, which suits a few million words. KenLM's `lmplz` makes the same kind of
    file from any amount of text.

    Args:
        sentences: Words with white space between; for a model of characters, the characters.
        path: ARPA file to write.
        order: The longest n-grams.
    Returns:
        How many sentences, words (running) and n-grams of each order there are.
    Raises:
        ValueError: If there is no text, it holds the marks <s>, </s> or <unk>, or the order is not one.
    """
    check_order(order)
    texts = [words for words in (sentence.split() for sentence in sentences) if words]
    if not texts:
        raise ValueError("There is no text to count: give files or transcripts with words in them.")
    marks = {START, END, UNKNOWN}.intersection(itertools.chain.from_iterable(texts))
    if marks:
        raise ValueError(f"The text holds {', '.join(sorted(marks))}, which are reserved in ARPA files.")

    counts = _adjusted_counts(texts, order)
    probabilities: list[dict[NGram, float]] = []
    backoffs: list[dict[NGram, float]] = []
    for grams in counts:
        # The order below the unigrams: all words, the end and the unknown word alike.
        lower = probabilities[-1] if probabilities else defaultdict(lambda: 1 / (len(counts[0]) + 1))
        found, weights = _smooth(grams, lower)
        probabilities.append(found)
        backoffs.append(weights)
    probabilities[0] |= {(UNKNOWN,): backoffs[0][()] / (len(counts[0]) + 1), (START,): 0.0}
    _write_arpa(probabilities, backoffs[1:], path)
    facts = {"sentences": len(texts), "words": sum(map(len, texts))}
    return facts | {f"{length}-grams": len(grams) for length, grams in enumerate(probabilities, 1)}


def check_order(order: int):
    """Raises a ValueError if n-grams of this length can't be estimated, or not be read again."""
    if not 2 <= order <= LONGEST_ORDER:
        raise ValueError(f"The order is {order}; expected 2 to {LONGEST_ORDER}, the longest n-grams that KenLM reads.")


def as_characters(sentence: str) -> str:
    """A sentence for a character model: characters with spaces between them, and `|` between words."""
    return " ".join("|".join(sentence.split()))


def _adjusted_counts(texts: Sequence[Sequence[str]], order: int) -> list[Counter[NGram]]:
    """Counts of the longest n-grams; of shorter ones, how many different words stand before them.

    What starts a sentence has nothing before it, and keeps its count.
    """
    raw = [Counter() for _ in range(order)]
    for words in texts:
        sentence = (START, *words, END)
        for length in range(2, min(order, len(sentence) + 1)):
            raw[length - 1][sentence[:length]] += 1
        raw[-1].update(sentence[place : place + order] for place in range(len(sentence) - order + 1))
    for longer, shorter in zip(raw[:0:-1], raw[-2::-1]):
        shorter.update(gram[1:] for gram in longer)
    return [grams for grams in raw if grams]  # no sentence may be long enough for the longest


def _smooth(grams: Counter[NGram], lower: dict[NGram, float]) -> tuple[dict[NGram, float], dict[NGram, float]]:
    """Probabilities of n-grams, and the weight that each context leaves to the shorter ones."""
    discounts = _discounts(grams)
    totals, left = Counter(), defaultdict(float)
    for gram, count in grams.items():
        totals[gram[:-1]] += count
        left[gram[:-1]] += discounts[min(count, 3) - 1]
    backoffs = {context: left[context] / total for context, total in totals.items()}
    probabilities = {
        gram: (count - discounts[min(count, 3) - 1]) / totals[gram[:-1]] + backoffs[gram[:-1]] * lower[gram[1:]]
        for gram, count in grams.items()
    }
    return probabilities, backoffs


def _discounts(grams: Counter[NGram]) -> Sequence[float]:
    """What is taken from n-grams counted once, twice and more often (equation 26)."""
    singles = Counter(grams.values())
    if not all(singles[count] for count in (1, 2, 3, 4)):
        return FALLBACK_DISCOUNTS
    share = singles[1] / (singles[1] + 2 * singles[2])
    discounts = [count - (count + 1) * share * singles[count + 1] / singles[count] for count in (1, 2, 3)]
    sound = all(0 <= discount <= count for count, discount in enumerate(discounts, 1))
    return discounts if sound else FALLBACK_DISCOUNTS


def _write_arpa(probabilities: Sequence[dict[NGram, float]], backoffs: Sequence[dict], path: str | os.PathLike):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        file.writelines(f"ngram {length}={len(grams)}\n" for length, grams in enumerate(probabilities, 1))
        for length, grams in enumerate(probabilities, 1):
            file.write(f"\n\\{length}-grams:\n")
            weights = backoffs[length - 1] if length < len(probabilities) else None
            for gram, probability in grams.items():
                # A sentence's start is never predicted; -99 is what stands for that in ARPA files.
                line = f"{math.log10(probability) if probability else -99:.7f}\t{' '.join(gram)}"
                file.write(line + (f"\t{_log_weight(weights, gram):.7f}\n" if weights is not None else "\n"))
        file.write("\n\\end\\\n")


def _log_weight(weights: dict[NGram, float], gram: NGram) -> float:
    """Of a context; what was never a context leaves all to the shorter ones, and what leaves nothing gets -99."""
    weight = weights.get(gram, 1.0)
    return math.log10(weight) if weight else -99


def open_text(path: str | os.PathLike) -> TextIO:
    """Opens a text, compressed (gzip, bzip2, xz) or not, in the encoding of its byte-order mark, else in UTF-8.

    Raises:
        ValueError: If it is packed in another way, or is no text.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(KENLM_BINARY):
        raise ValueError(
            f"{path} is a language model in KenLM's binary format (which does not tell its words): give the ARPA file "
            "it was made from, or a file with a word in each line as `words`."
        )
    packed_otherwise = next((name for mark, name in OTHER_PACKERS.items() if start.startswith(mark)), None)
    if packed_otherwise:
        raise ValueError(f"{path} is compressed with {packed_otherwise}: decompress it first.")
    unpack = next((opener for mark, opener in PACKERS.items() if start.startswith(mark)), open)
    with unpack(path, "rb") as file:
        start = file.read(64)
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in start:
        raise ValueError(f"{path} is no text in UTF-8: it is binary, or in UTF-16 without a byte-order mark.")
    return unpack(path, "rt", encoding=encoding)


@contextlib.contextmanager
def as_kenlm_reads(path: str | os.PathLike) -> Iterator[str]:
    """A language model's path as KenLM reads it: itself, or a plain copy in UTF-8 for as long as it takes to load.

    Raises:
        ValueError: If it is in IRSTLM's own format, or can't be read.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith((KENLM_BINARY, b"\\data\\")):
        yield str(path)
        return
    with naming_the_encoding(path), open_text(path) as text:
        first = next((line for line in text if line.strip()), "").strip()
    if first == IRSTLM:
        raise ValueError(
            f"{path} is in iARPA, IRSTLM's own format, which KenLM can't read: make an ARPA file of it with IRSTLM's "
            "`compile-lm FILE --text=yes FILE.arpa`."
        )
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "lm.arpa")
        with naming_the_encoding(path), open_text(path) as text, plain.open("w", encoding="utf-8") as copy:
            shutil.copyfileobj(text, copy)
        yield str(plain)


@contextlib.contextmanager
def naming_the_encoding(path: str | os.PathLike) -> Iterator[None]:
    """Around whatever reads a text: another encoding, or a packed file cut short, is named as what it is."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8 (byte {error.object[error.start]:#04x} is no part of it). If it is text in "
            "another encoding, such as Latin-1, save it in UTF-8: iconv -f LATIN1 -t UTF-8 FILE."
        ) from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is a damaged compressed file ({error}): download it again.") from error


def read_words(path: str | os.PathLike) -> list[str]:
    """The words of a language model, without its marks.

    Args:
        path: An ARPA file, or a text with a word in each line, which may have its count beside it or, as in lexicons of
            letters, its spelling after it; packed or not, see `open_text`.
    Raises:
        ValueError: If it is neither, or not in UTF-8.
    """
    with naming_the_encoding(path), open_text(path) as file:
        lines = (line.strip() for line in file)
        before = list(itertools.takewhile(lambda line: line != ARPA_START, lines))
        if next(lines, None) is None:
            return _listed_words([line.split() for line in before if line])
        lines = itertools.dropwhile(lambda line: line != "\\1-grams:", lines)
        entries = itertools.takewhile(lambda line: not line.startswith("\\"), itertools.islice(lines, 1, None))
        fields = [line.split() for line in entries if line]
    if not all(1 < len(each) < 4 for each in fields):
        wrong = next(each for each in fields if not 1 < len(each) < 4)
        raise ValueError(
            f"{path} is no sound ARPA file: the unigram {' '.join(wrong)!r} is not a probability, a word and perhaps a "
            "weight."
        )
    words = [word for _, word, *_ in fields]
    return [word for word in words if word.lower() not in (START, END, UNKNOWN)]


def _listed_words(lines: Sequence[list[str]]) -> list[str]:
    """The words of a list, without counts and spellings beside them; of sentences, all words."""
    if lines and all(len(line) == 2 for line in lines):
        first, second = zip(*lines)
        for words, counts in ((first, second), (second, first)):
            if all(map(_is_number, counts)) and not all(map(_is_number, words)):
                return list(words)
    if all(line[0] == "".join(line[1:]).strip("|") for line in lines):
        return [line[0] for line in lines]
    return [word for line in lines for word in line]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def spellable_words(words: Sequence[str], alphabet: Alphabet) -> list[str]:
    """The words that a model can write; a warning counts the others.

    Raises:
        ValueError: If more than one in twenty can't be written, as with a language model in the other case.
    """
    unknown = set().union(*(alphabet.unknown(word) for word in words))
    spellable = [word for word in words if not alphabet.unknown(word)]
    missing = len(words) - len(spellable)
    if not spellable or missing > MOST_UNSPELLABLE * len(words):
        raise ValueError(
            f"The language model has another alphabet: {missing:,} of its {len(words):,} words hold "
            f"{alphabet.describe(unknown)}. Normalise its text as the transcripts were for training."
        )
    if missing:
        logger.warning("%d of %d words are left out: they hold %s.", missing, len(words), alphabet.describe(unknown))
    return spellable
