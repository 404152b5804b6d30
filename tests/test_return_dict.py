"""Outputs come as tuples where the caller, or the config, asks for them, as in transformers."""

import pytest
import torch

import hf_ssl_speech
from hf_ssl_speech import to_transformers


@pytest.mark.parametrize("family", ["Wav2Vec2", "Hubert"])
@pytest.mark.parametrize("head", ["ForCTC", "ForSequenceClassification"])
def test_heads_give_tuples_where_stock_does(family, head, make_tiny):
    ours = make_tiny(getattr(hf_ssl_speech, f"SSL{family}{head}"), vocab_size=7)
    stock = to_transformers(ours)
    waveforms = torch.randn(1, 4_000)
    for choice in (None, True, False):
        mine, theirs = (model(waveforms, output_hidden_states=True, return_dict=choice) for model in (ours, stock))
        assert isinstance(mine, tuple) == isinstance(theirs, tuple) == (choice is False)
        assert len(mine) == len(theirs) == 2
        torch.testing.assert_close(mine[0], theirs[0])
    ours.config.return_dict = False
    assert isinstance(ours(waveforms), tuple) and not isinstance(ours(waveforms, return_dict=True), tuple)
    loss, logits = ours(waveforms, labels=torch.tensor([[1]] if head == "ForCTC" else [1]))[:2]
    assert loss.dim() == 0 and torch.equal(logits, ours(waveforms)[0])


def test_encoders_and_pretraining_models_give_tuples_too(tiny_hubert):
    waveforms = torch.randn(1, 4_000)
    for model in (tiny_hubert, tiny_hubert.base_model):
        assert isinstance(model(waveforms, return_dict=False), tuple)
        assert not isinstance(model(waveforms, return_dict=None), tuple)
