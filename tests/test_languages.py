"""A recogniser with adapters for many languages, such as MMS: one of them is chosen."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor

from hf_ssl_speech.commands import tune_decoder
from hf_ssl_speech.commands.main import main
from hf_ssl_speech.recognition import transcription
from hf_ssl_speech.recognition.decoding import GreedyDecoder
from hf_ssl_speech.recognition.transcription import load_processor, load_recognizer

LETTERS = {"eng": "abcd", "fra": "abcdéè", "ukr": "абвгґ'"}


@pytest.fixture
def many_languages(make_tiny, tmp_path):
    """A folder as MMS lays it out: a nested vocabulary, and an adapter with its head for each language."""
    vocabulary = {
        language: {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *letters])}
        for language, letters in LETTERS.items()
    }
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), target_lang="eng")
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(do_normalize=True), tokenizer).save_pretrained(tmp_path)
    for seed, language in enumerate(reversed(LETTERS)):
        sizes = dict(vocab_size=len(vocabulary[language]), adapter_attn_dim=4, pad_token_id=0)
        model = make_tiny(Wav2Vec2ForCTC, seed=seed, do_stable_layer_norm=True, feat_extract_norm="layer", **sizes)
        weights = {name: weight.detach().clone() for name, weight in model._get_adapters().items()}
        save_file(weights, tmp_path / f"adapter.{language}.safetensors")
    model.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("language", LETTERS)
def test_the_chosen_language_gets_its_adapter_head_and_letters(many_languages, language):
    model, processor = load_recognizer(many_languages, device="cpu", language=language)
    decoder = GreedyDecoder(processor.tokenizer, model.config)
    assert set(decoder.alphabet.characters.values()) == set(LETTERS[language])
    assert model.lm_head.out_features == len(LETTERS[language]) + 5
    path = [index for index in decoder.alphabet.spell(LETTERS[language]) for _ in range(2)]
    logits = 9.0 * torch.nn.functional.one_hot(torch.tensor([path]), model.lm_head.out_features)
    assert decoder.decode(logits, torch.tensor([len(path)]))[0].text == LETTERS[language]
    # Its own adapter, not that of the language the model was saved with.
    expected = Wav2Vec2ForCTC.from_pretrained(many_languages)
    expected.load_adapter(language)
    audio = torch.randn(1, 4_000)
    assert torch.equal(model(audio).logits, expected.eval()(audio).logits)


def test_a_language_is_chosen_for_the_language_model_and_its_weights_too(many_languages, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("Ґава, 'баґ'\n")
    main(["ngram", "--model", str(many_languages), "--language", "ukr", "--text", str(text), "--order", "2",
          "--output_file", str(tmp_path / "lm.arpa")])  # fmt: skip
    assert "ґава" in (tmp_path / "lm.arpa").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="has no language 'uk'; it has 3, such as ukr"):
        load_processor(many_languages, "uk")
    asked = []
    monkeypatch.setattr(transcription, "load_recognizer", lambda name, **settings: asked.append(settings) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tune_decoder.main(["--model", "m", "--data", "d", "--output_dir", str(tmp_path / "o"), "--language", "fra"])
    assert asked == [{"language": "fra"}]


def test_a_language_that_is_not_there_is_told_with_its_neighbours(many_languages, make_tiny, tmp_path_factory):
    with pytest.raises(ValueError, match=r"has no language 'fr'; it has 3, such as fra\."):
        load_recognizer(many_languages, device="cpu", language="fr")
    plain = tmp_path_factory.mktemp("plain")
    (plain / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "a": 3}))
    tokenizer = Wav2Vec2CTCTokenizer(str(plain / "vocab.json"), bos_token=None, eos_token=None)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(plain)
    make_tiny(Wav2Vec2ForCTC, vocab_size=4, pad_token_id=0).save_pretrained(plain)
    with pytest.raises(ValueError, match="has no adapters for languages, so none can be chosen"):
        load_recognizer(plain, device="cpu", language="fra")
