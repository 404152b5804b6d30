"""Folders in transformers' own form are complete, and train as fine-tuning does."""

import pytest
import torch
from test_pipeline import TOKENS, save_recognizer
from transformers import (
    AutoModelForCTC,
    AutoProcessor,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Processor,
)

import hf_ssl_speech
from hf_ssl_speech import export_stock


@pytest.mark.parametrize("objective", ["Wav2Vec2", "Hubert"])
def test_a_stock_export_is_complete_and_masks_as_fine_tuning_does(objective, architecture, make_tiny, tmp_path):
    ours = make_tiny(getattr(hf_ssl_speech, f"SSL{objective}ForCTC"), vocab_size=len(TOKENS), **architecture)
    folder = save_recognizer(ours, tmp_path / "ctc")
    target = export_stock(folder, tmp_path / "ctc-stock", license="mit")
    names = {path.name for path in target.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "vocab.json", "README.md"} <= names
    assert not any("hf_ssl_speech" in name for name in names)
    assert "processor_config.json" not in names  # transformers 4 fails on the one that transformers 5 writes
    processor = AutoProcessor.from_pretrained(target)
    assert type(processor) is Wav2Vec2Processor and processor.tokenizer.get_vocab()["a"] == TOKENS.index("a")
    stock = AutoModelForCTC.from_pretrained(target)
    assert type(stock).__name__ == f"{objective}ForCTC"
    assert stock.config.ctc_loss_reduction == "mean"
    assert stock.config.mask_time_prob == ours.config.mask_time_prob  # its own, of fine-tuning
    waveform = torch.randn(1, 16_000)
    assert torch.equal(stock(waveform).logits, ours(waveform).logits)
    card = (target / "README.md").read_text()
    assert "license: mit" in card and "As long as nothing is padded" in card
    assert ("another transcript" in card) == (architecture["feat_extract_norm"] == "group")
    with pytest.raises(ValueError, match="is not empty"):
        export_stock(folder, target)


def test_an_encoder_that_was_pretrained_masks_little_when_stock_fine_tunes_it(tiny_wav2vec2, tmp_path):
    assert tiny_wav2vec2.config.mask_time_prob == 0.65
    tiny_wav2vec2.save_pretrained(tmp_path / "run")
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path / "run")
    target = export_stock(tmp_path / "run", tmp_path / "stock")
    classifier = Wav2Vec2ForSequenceClassification.from_pretrained(target)
    assert classifier.config.mask_time_prob == 0.05 and classifier.config.mask_feature_prob == 0
    assert not Wav2Vec2FeatureExtractor.from_pretrained(target).do_normalize
