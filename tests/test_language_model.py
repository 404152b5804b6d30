"""N-gram models: whole distributions, Kneser-Ney's continuations, and the ARPA file."""

import bz2
import gzip
import lzma
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from hf_ssl_speech.recognition.language_model import as_kenlm_reads, read_words, write_ngram


def arpa(path) -> tuple[dict, dict]:
    """Probabilities and weights of contexts, by n-gram."""
    probabilities, weights = {}, {}
    for line in path.read_text().splitlines():
        fields = line.split("\t")
        if len(fields) > 1:
            gram = tuple(fields[1].split())
            probabilities[gram] = 10 ** float(fields[0])
            weights[gram] = 10 ** float(fields[2]) if len(fields) > 2 else 1.0
    return probabilities, weights


def probability(gram: tuple, probabilities: dict, weights: dict) -> float:
    """As an ARPA file is read: the longest known n-gram, else the weight of the context times a shorter one."""
    if gram in probabilities:
        return probabilities[gram]
    return weights.get(gram[:-1], 1.0) * probability(gram[1:], probabilities, weights)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_an_ngram_model_gives_every_context_a_whole_distribution(tmp_path, order):
    rng = torch.Generator().manual_seed(0)
    numbers = (torch.rand(300, 6, generator=rng) ** 3 * 30).int().tolist()
    sentences = [" ".join(f"w{number}" for number in row) for row in numbers]
    facts = write_ngram(sentences, tmp_path / "lm.arpa", order=order)
    probabilities, weights = arpa(tmp_path / "lm.arpa")
    assert facts["sentences"] == 300 and facts["words"] == 1_800
    assert len(probabilities) == sum(facts[f"{length}-grams"] for length in range(1, order + 1))
    vocabulary = [gram[0] for gram in probabilities if len(gram) == 1 and gram != ("<s>",)]
    contexts = [(), ("w0",), ("<s>",), ("<s>", "w1"), ("w0", "w0"), ("w29", "w3"), ("w0", "w1", "w0"), ("unheard",)]
    for context in contexts:
        total = sum(probability((*context[1 - order :], word), probabilities, weights) for word in vocabulary)
        assert total == pytest.approx(1, abs=1e-5), context


def test_an_ngram_model_counts_continuations_not_words(tmp_path):
    # "francisco" is frequent, but only ever after "san": alone it is less likely than a rare word of many contexts.
    sentences = ["san francisco"] * 20 + ["a glass", "b glass", "c glass", "d glass"]
    write_ngram(sentences, tmp_path / "lm.arpa", order=2)
    probabilities, _ = arpa(tmp_path / "lm.arpa")
    assert probabilities["francisco",] < probabilities["glass",]
    assert probabilities["san", "francisco"] > 0.9


def test_one_word_sentences_make_no_empty_orders(tmp_path):
    facts = write_ngram(["one", "two", "three"], tmp_path / "lm.arpa", order=5)
    assert list(facts) == ["sentences", "words", "1-grams", "2-grams", "3-grams"]
    assert sorted(read_words(tmp_path / "lm.arpa")) == ["one", "three", "two"]


def test_a_language_model_needs_text(tmp_path):
    with pytest.raises(ValueError, match="no text to count"):
        write_ngram(["", " "], tmp_path / "lm.arpa")
    with pytest.raises(ValueError, match="The text holds </s>"):
        write_ngram(["one </s> two"], tmp_path / "lm.arpa")


PLAIN = (
    "\\data\\\nngram 1=4\nngram 2=1\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\t-0.3\n-1\t</s>\n-1\tnaïve\t-0.3\n\n"
    "\\2-grams:\n-0.5\t<s> naïve\n\n\\end\\\n"
)
READABLE = {
    "plain": PLAIN.encode(),
    "byte-order mark": PLAIN.encode("utf-8-sig"),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-32": PLAIN.encode("utf-32"),
    "carriage returns": PLAIN.replace("\n", "\r\n").encode(),
    "gzip": gzip.compress(PLAIN.encode()),
    "bzip2": bz2.compress(PLAIN.encode()),
    "xz": lzma.compress(PLAIN.encode("utf-8-sig")),
    "empty lines first": f"\n\n{PLAIN}".encode(),
    "a comment first": f"# made from books\n{PLAIN}".encode(),
}


@pytest.mark.parametrize("kind", READABLE)
def test_a_language_model_is_read_however_it_is_packed_and_encoded(tmp_path, kind):
    (tmp_path / "lm.arpa").write_bytes(READABLE[kind])
    assert read_words(tmp_path / "lm.arpa") == ["naïve"]
    with as_kenlm_reads(tmp_path / "lm.arpa") as path, open(path, encoding="utf-8") as file:
        assert file.read().removeprefix("# made from books").lstrip("\n") == PLAIN
        if find_spec("flashlight"):
            from flashlight.lib.text.decoder.kenlm import KenLM
            from flashlight.lib.text.dictionary import Dictionary

            KenLM(path, Dictionary(["naïve"]))


@pytest.mark.parametrize(
    "text",
    [
        "good\nday\n",
        "good day",
        "\n\ngood\n\nday",
        "good 12\nday 3\n",
        "  12 good\n   3 day\n",
        "good\t1.5e-3\nday\t-2\n",
        "good g o o d |\nday d a y |\n",
        "good g oo d\nday d ay\n",
    ],
)
def test_a_list_gives_its_words_without_counts_and_spellings(tmp_path, text):
    (tmp_path / "words.txt").write_text(text, encoding="utf-8")
    assert read_words(tmp_path / "words.txt") == ["good", "day"]


def test_an_empty_list_and_one_of_numbers_are_what_they_are(tmp_path):
    for text, words in (("", []), ("1 2\n3 4\n", ["1", "2", "3", "4"])):
        (tmp_path / "words.txt").write_text(text, encoding="utf-8")
        assert read_words(tmp_path / "words.txt") == words


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (PLAIN.encode("latin-1"), r"no text in UTF-8 \(byte 0xef .*iconv -f LATIN1"),
        (PLAIN.encode("utf-16-le"), "binary, or in UTF-16 without a byte-order mark"),
        (b"PK\x03\x04rest", "is compressed with zip: decompress it first"),
        (b"\x28\xb5\x2f\xfdrest", "is compressed with Zstandard"),
        (gzip.compress(PLAIN.encode())[:40], "is a damaged compressed file"),
        (b"mmap lm http://kheafield.com/code format version 5\n\0\xff", "in KenLM's binary format"),
        (b"\\data\\\nngram 1=1\n\n\\1-grams:\nhello\n", "is no sound ARPA file"),
    ],
    ids=["Latin-1", "UTF-16 without mark", "zip", "Zstandard", "cut gzip", "KenLM's binary", "no probability"],
)
def test_a_language_model_that_can_not_be_read_is_said_to_be_what_it_is(tmp_path, content, what):
    (tmp_path / "lm.arpa").write_bytes(content)
    with pytest.raises(ValueError, match=what):
        read_words(tmp_path / "lm.arpa")


def test_irstlms_own_format_tells_its_words_but_kenlm_can_not_search_with_it(tmp_path):
    (tmp_path / "lm.iarpa").write_text(f"iARPA\n\n{PLAIN}", encoding="utf-8")
    assert read_words(tmp_path / "lm.iarpa") == ["naïve"]
    with pytest.raises(ValueError, match=r"is in iARPA, .*compile-lm"), as_kenlm_reads(tmp_path / "lm.iarpa"):
        pass


@pytest.mark.parametrize("order", [-1, 1, 7])
def test_n_grams_that_kenlm_can_not_read_are_refused_before_anything_is_read(order, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    import make_ngram

    with pytest.raises(ValueError, match=f"The order is {order}; expected 2 to 6"):
        write_ngram(["a b c"], tmp_path / "lm.arpa", order=order)
    with pytest.raises(ValueError, match=f"The order is {order}; expected 2 to 6"):
        make_ngram.main(["--model", "nowhere", "--output_file", str(tmp_path / "lm.arpa"), "--order", str(order)])
    assert not list(tmp_path.iterdir())
