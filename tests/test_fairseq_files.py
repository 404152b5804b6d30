"""Checkpoints in fairseq's format give what stock models with the same weights give, and nothing in them is run."""

import argparse
import enum
import os
import subprocess
import sys
import types

import pytest
import torch
from conftest import WAV2VEC2
from transformers import HubertForCTC, HubertModel, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining, Wav2Vec2Model

import hf_ssl_speech
from hf_ssl_speech import GreedyDecoder, fairseq_processor, from_fairseq
from hf_ssl_speech.hub.fairseq_files import conv_layers_of
from hf_ssl_speech.recognition.transcription import load_recognizer

CONV_LAYERS = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] + [(16,2,2)]"


def fairseq_names(stock) -> dict[str, torch.Tensor]:
    """The weights of a stock model under fairseq's names, those of an encoder without prefix."""
    large = stock.config.feat_extract_norm == "layer"
    replacements = (
        (f"{stock.base_model_prefix}.", ""),
        ("masked_spec_embed", "mask_emb"),
        ("feature_projection.layer_norm", "layer_norm"),
        ("feature_projection.projection", "post_extract_proj"),
        ("pos_conv_embed.conv.parametrizations.weight.original0", "pos_conv.0.weight_g"),
        ("pos_conv_embed.conv.parametrizations.weight.original1", "pos_conv.0.weight_v"),
        ("pos_conv_embed.conv.bias", "pos_conv.0.bias"),
        ("feed_forward.intermediate_dense", "fc1"),
        ("feed_forward.output_dense", "fc2"),
        ("attention.", "self_attn."),
        ("quantizer.codevectors", "quantizer.vars"),
        ("project_hid", "final_proj"),
        ("lm_head", "w2v_encoder.proj"),
    )
    renamed = {}
    for name, weight in stock.state_dict().items():
        parts = name.removeprefix(f"{stock.base_model_prefix}.").split(".")
        if parts[0] == "feature_extractor":
            parts[3] = "0" if parts[3] == "conv" else "2.1" if large else "2"
        if parts[:2] == ["encoder", "layers"] and parts[3] == "layer_norm":
            parts[3] = "self_attn_layer_norm"
        name = ".".join(parts)
        for ours, theirs in replacements:
            name = name.replace(ours, theirs)
        renamed[name] = weight.clone()
    return renamed


def settings_of(stock, name: str) -> dict:
    """What fairseq would have written of the model."""
    return {
        "_name": name,
        "conv_feature_layers": CONV_LAYERS,
        "encoder_attention_heads": 4,
        "layer_norm_first": stock.config.do_stable_layer_norm,
        "extractor_mode": "layer_norm" if stock.config.feat_extract_norm == "layer" else "default",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "encoder_layerdrop": 0.05,
        "latent_temp": [2.0, 0.5, 0.999995],
        "latent_vars": WAV2VEC2["num_codevectors_per_group"],
        "latent_groups": 2,
        "label_rate": "${task.label_rate}",
    }


@pytest.fixture
def as_omegaconf(monkeypatch):
    """`as_omegaconf(settings)`: objects that are pickled as omegaconf's nodes and fairseq's enums are."""
    module = types.ModuleType("omegaconf_like")
    monkeypatch.setitem(sys.modules, "omegaconf_like", module)
    for name in ("DictConfig", "ListConfig", "AnyNode"):
        setattr(module, name, type(name, (), {"__module__": "omegaconf_like", "__qualname__": name}))
    module.Mode = enum.Enum("Mode", {"layer_norm": "layer_norm", "default": "default"}, module="omegaconf_like")

    def node(kind: str, **state):
        new = getattr(module, kind)()
        new.__dict__.update(state, _metadata={"ref_type": dict, "object_type": types.SimpleNamespace})
        return new

    def convert(value):
        if isinstance(value, dict):
            return node("DictConfig", _content={name: convert(entry) for name, entry in value.items()})
        if isinstance(value, list):
            return node("ListConfig", _content=[convert(entry) for entry in value])
        return node("AnyNode", _val=module.Mode(value) if value in ("layer_norm", "default") else value)

    return convert


def as_namespace(settings: dict) -> argparse.Namespace:
    return argparse.Namespace(**settings, arch=settings["_name"])


def save(path, weights, settings, old_format=False, **more):
    """A checkpoint as fairseq writes it: settings in `cfg`, or in `args` as namespaces in old files."""
    where = "args" if isinstance(settings, argparse.Namespace) else "cfg"
    checkpoint = {"args": None, "cfg": None, "model": weights, "optimizer_history": [], **more, where: settings}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not old_format)
    return path


@torch.no_grad()
def hidden_states(model):
    waveforms = torch.randn(2, 8_000, generator=torch.Generator().manual_seed(1))
    return model.eval()(waveforms, output_hidden_states=True).hidden_states


def assert_same(ours, stock):
    assert all(torch.equal(*pair) for pair in zip(hidden_states(ours), hidden_states(stock), strict=True))


def test_pretrained_wav2vec2_is_read_with_its_head(architecture, as_omegaconf, make_tiny, tmp_path):
    stock = make_tiny(Wav2Vec2ForPreTraining, **architecture)
    settings = as_omegaconf({"model": settings_of(stock, "wav2vec2"), "task": {"normalize": True}})
    ours = from_fairseq(save(tmp_path / "w2v.pt", fairseq_names(stock), settings))
    assert type(ours) is hf_ssl_speech.SSLWav2Vec2ForPreTraining
    assert_same(ours.base_model, stock.wav2vec2)
    theirs = stock.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.state_dict().items() if name in theirs)
    config = ours.config
    assert (config.layerdrop, config.gumbel_temperature_end, config.num_hidden_layers) == (0.05, 0.5, 3)


def test_pretrained_hubert_is_read_with_its_units(architecture, make_tiny, tmp_path):
    stock = make_tiny(HubertModel, **architecture)
    head = {"final_proj.weight": torch.randn(12, 32), "final_proj.bias": torch.randn(12)}
    embeddings = torch.randn(14, 12)  # four special symbols, then ten units
    weights = fairseq_names(stock) | head | {"label_embs_concat": embeddings}
    ours = from_fairseq(save(tmp_path / "hubert.pt", weights, {"model": settings_of(stock, "hubert"), "task": {}}))
    assert type(ours) is hf_ssl_speech.SSLHubertForPreTraining
    assert_same(ours.base_model, stock)
    assert torch.equal(ours.unit_embeddings[0].weight, embeddings[4:]) and list(ours.config.num_units) == [10]
    assert torch.equal(ours.to_unit_space[0].weight, head["final_proj.weight"])


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "before zip"])
@pytest.mark.parametrize(("stock_class", "name"), [(Wav2Vec2ForCTC, "wav2vec"), (HubertForCTC, "hubert")])
def test_fine_tuned_checkpoints_give_stocks_logits(stock_class, name, old_format, architecture, make_tiny, tmp_path):
    stock = make_tiny(stock_class, vocab_size=9, **architecture)
    weights = {
        each if each.startswith("w2v_encoder.") else f"w2v_encoder.w2v_model.{each}": weight
        for each, weight in fairseq_names(stock).items()
    }
    pretrained = as_namespace(settings_of(stock, "wav2vec2" if name == "wav2vec" else name))
    model = {"_name": f"{name}_ctc", "mask_prob": 0.3, "mask_channel_prob": 0.2, "layerdrop": 0.1}
    settings = as_namespace(model | {"w2v_args": pretrained})
    ours = from_fairseq(save(tmp_path / "ctc.pt", weights, settings, old_format))
    assert type(ours).__name__ == f"SSL{stock_class.__name__}"
    waveforms = torch.randn(2, 8_000)
    assert torch.equal(ours(waveforms).logits, stock(waveforms).logits)
    config = ours.config
    assert (config.pad_token_id, config.vocab_size) == (0, 9)
    assert (config.mask_time_prob, config.mask_feature_prob, config.layerdrop) == (0.3, 0.2, 0.1)


def test_a_fine_tuned_checkpoint_with_its_dictionary_is_a_recogniser(make_tiny, tmp_path):
    (tmp_path / "dict.ltr.txt").write_text("| 94802\nE 51860\nT 38431\n")
    processor = fairseq_processor(tmp_path / "dict.ltr.txt", normalize=False)
    stock = make_tiny(Wav2Vec2ForCTC, vocab_size=7)
    weights = {
        name if name.startswith("w2v_encoder.") else f"w2v_encoder.w2v_model.{name}": weight
        for name, weight in fairseq_names(stock).items()
    }
    settings = {"model": {"_name": "wav2vec_ctc", "w2v_args": {"model": settings_of(stock, "wav2vec2")}}}
    from_fairseq(save(tmp_path / "ctc.pt", weights, settings)).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    model, loaded = load_recognizer(tmp_path / "model", device="cpu")
    assert loaded.tokenizer.pad_token_id == model.config.pad_token_id == 0
    frames = torch.nn.functional.one_hot(torch.tensor([[0, 5, 5, 0, 6, 4, 5, 0]]), 7).float()
    (heard,) = GreedyDecoder(loaded.tokenizer, model.config).decode(frames, torch.tensor([8]))
    assert heard.text == "ET E"
    (tmp_path / "dict.ltr.txt").write_text("no counts\n")
    with pytest.raises(ValueError, match="is no dictionary of fairseq"):
        fairseq_processor(tmp_path / "dict.ltr.txt", normalize=False)


class Trap:
    """Runs a command when it is unpickled by plain means."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_in_a_file_is_run(make_tiny, tmp_path):
    stock, mark = make_tiny(Wav2Vec2Model), tmp_path / "mark"
    settings = {"model": settings_of(stock, "wav2vec2")}
    traps = [Trap(subprocess.check_call, ["touch", str(mark)]), Trap(eval, f"open({str(mark)!r}, 'w')")]
    path = save(tmp_path / "trap.pt", fairseq_names(stock), settings, extra_state=traps)
    assert type(from_fairseq(path)) is hf_ssl_speech.SSLWav2Vec2Model  # a file without a pretraining head
    assert not mark.exists()
    path = save(tmp_path / "trap.pt", fairseq_names(stock), settings, extra_state=[Trap(os.system, f"touch {mark}")])
    with pytest.raises(ValueError, match=r"trap\.pt can't be read as weights and plain data.*blocked"):
        from_fairseq(path)
    assert not mark.exists()


def test_the_layers_of_the_conv_encoder_are_read_and_not_evaluated():
    assert conv_layers_of(CONV_LAYERS) == [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2
    for text in ("__import__('os').getcwd()", "[(1, 2)]", "[(1, 2, 3)] * 10**9"):
        with pytest.raises(ValueError):
            conv_layers_of(text)


def test_other_files_are_refused_in_words(make_tiny, tmp_path):
    stock = make_tiny(Wav2Vec2Model)
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt is no checkpoint of fairseq: it has no weights"):
        from_fairseq(tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"text\.pt can't be read"):
        from_fairseq(tmp_path / "text.pt")
    with pytest.raises(ValueError, match="number of heads is unknown"):
        from_fairseq(save(tmp_path / "bare.pt", fairseq_names(stock), None))
    settings = {"model": settings_of(stock, "data2vec_audio")}
    strange = save(tmp_path / "strange.pt", fairseq_names(stock) | {"regression_head.weight": torch.ones(2)}, settings)
    with pytest.raises(ValueError, match=r"strange\.pt .*differ in 1 weights \(regression_head\.weight\)"):
        from_fairseq(strange)
