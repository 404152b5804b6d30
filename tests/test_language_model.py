"""N-gram models: whole distributions, Kneser-Ney's continuations, and the ARPA file."""

from pathlib import Path

import pytest
import torch

from hf_ssl_speech.recognition.language_model import read_words, write_ngram


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


@pytest.mark.parametrize("order", [-1, 1, 7])
def test_n_grams_that_kenlm_can_not_read_are_refused_before_anything_is_read(order, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    import make_ngram

    with pytest.raises(ValueError, match=f"The order is {order}; expected 2 to 6"):
        write_ngram(["a b c"], tmp_path / "lm.arpa", order=order)
    with pytest.raises(ValueError, match=f"The order is {order}; expected 2 to 6"):
        make_ngram.main(["--model", "nowhere", "--output_file", str(tmp_path / "lm.arpa"), "--order", str(order)])
    assert not list(tmp_path.iterdir())
