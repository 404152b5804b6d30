"""What a checkpoint lacks starts as in a new model, whatever the memory held before."""

import math

import pytest
import torch
from conftest import BASE, LARGE, tiny_model
from safetensors.torch import save_file
from torch import nn

import hf_ssl_speech
from hf_ssl_speech import SSLWav2Vec2ForCTC, SSLWav2Vec2Model
from hf_ssl_speech.models.sizes import LAYER

FIELDS = {"base": BASE, "large": LARGE, "weighted": dict(use_weighted_layer_sum=True)}
CASES = [
    (f"SSL{family}{head}", fields)
    for family in ("Wav2Vec2", "Hubert")
    for head in ("Model", "ForPreTraining", "ForCTC", "ForSequenceClassification")
    for fields in (FIELDS if head == "ForSequenceClassification" else ("base", "large"))
]
POISON = 1e30


@pytest.fixture
def poisoned_memory(monkeypatch):
    """What transformers allocates for missing weights is full of what was there before."""
    empty_like = torch.empty_like

    def poisoned(tensor, **kwargs):
        empty = empty_like(tensor, **kwargs)
        return empty.fill_(POISON) if empty.is_floating_point() and not empty.is_meta else empty

    monkeypatch.setattr(torch, "empty_like", poisoned)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers, those that are never saved too."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def assert_drawn_alike(name: str, weight: torch.Tensor, fresh: torch.Tensor):
    """Constants are equal; else means and spreads differ by less than six standard errors."""
    count = fresh.numel()
    if count == 1 or fresh.unique().numel() == 1:
        assert torch.equal(weight, fresh), name
        return
    spread = fresh.std()
    assert abs(weight.mean() - fresh.mean()) < 6 * spread * math.sqrt(2 / count), name
    assert abs((weight.std() / spread).log()) < 6 / math.sqrt(count), name
    assert not torch.equal(weight, fresh), name


@pytest.mark.parametrize(("class_name", "fields"), CASES, ids=[f"{name}-{fields}" for name, fields in CASES])
def test_every_weight_that_a_checkpoint_lacks_gets_its_initial_value(class_name, fields, tmp_path, poisoned_memory):
    model_class = getattr(hf_ssl_speech, class_name)
    trained = tiny_model(model_class, **FIELDS[fields])
    fresh = weights_of(model_class(trained.config))
    saved = {name: weight.contiguous() for name, weight in trained.state_dict().items()}
    encoder = {name: saved[name] for name in saved if name.startswith(f"{model_class.base_model_prefix}.")}
    # The least that is loaded, the encoder only, and every other one: the bias but not the weight, and the reverse.
    one_of_each_layer = {layer[0]: name for name in saved if (layer := LAYER.search(name))}
    least = {name: saved[name] for name in one_of_each_layer.values()}
    kept = [least, least | encoder, *(least | dict(list(saved.items())[first::2]) for first in (0, 1))]
    trained.config.save_pretrained(tmp_path)
    for checkpoint in kept:
        save_file(checkpoint, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded = weights_of(model_class.from_pretrained(tmp_path))
        assert loaded.keys() == fresh.keys()
        for name, weight in loaded.items():
            if name in checkpoint:
                assert torch.equal(weight, checkpoint[name]), name
            elif not (name.endswith("original0") and name.replace("original0", "original1") in checkpoint):
                assert_drawn_alike(name, weight, fresh[name])


def test_the_norm_of_the_positional_conv_follows_its_directions(tmp_path, poisoned_memory):
    trained = tiny_model(SSLWav2Vec2Model)
    norm = "encoder.pos_conv_embed.conv.parametrizations.weight.original0"
    saved = {name: weight.contiguous() for name, weight in trained.state_dict().items() if name != norm}
    save_file(saved, tmp_path / "model.safetensors", metadata={"format": "pt"})
    trained.config.save_pretrained(tmp_path)
    conv = SSLWav2Vec2Model.from_pretrained(tmp_path).encoder.pos_conv_embed.conv
    torch.testing.assert_close(conv.weight, conv.parametrizations.weight.original1)


def test_the_ctc_head_starts_as_fairseqs():
    config = tiny_model(SSLWav2Vec2ForCTC, hidden_size=128, vocab_size=200).config
    head = SSLWav2Vec2ForCTC(config).lm_head
    bound = math.sqrt(6 / (128 + 200))
    assert 0.99 * bound < head.weight.abs().max() <= bound
    assert head.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert not head.bias.any()
