"""Fixtures of all tests: tiny models whose weights are random through and through, and the folder of real speech."""

import multiprocessing
import os
import re
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

import hf_ssl_speech
from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.training import record_keeper

TINY = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    conv_dim=(16,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    hidden_dropout=0.0,
    activation_dropout=0.0,
    attention_dropout=0.0,
    feat_proj_dropout=0.0,
    final_dropout=0.0,
    layerdrop=0.0,
)
WAV2VEC2 = dict(
    num_codevectors_per_group=8,
    codevector_dim=16,
    proj_codevector_dim=12,
    num_negatives=5,
    feat_quantizer_dropout=0.0,
)
BASE = dict(feat_extract_norm="group", do_stable_layer_norm=False, conv_bias=False)
LARGE = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)


def pytest_configure(config):
    logging.disable_progress_bar()
    torch.set_num_threads(1)  # tiny tensors: more threads cost more than they give
    # Tests of two processes fork them from one that has loaded the libraries and done nothing: from this one, a thread
    # pool or a lock of an earlier test could make them wait for ever.
    multiprocessing.set_forkserver_preload(["hf_ssl_speech.public"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch):
    """The picture of a tiny training takes longer than the training: only what looks at it draws it."""
    monkeypatch.setattr(record_keeper, "draw_training", lambda record, path: Path(path).write_bytes(b"picture"))


@pytest.fixture(params=[BASE, LARGE], ids=["base", "large"])
def architecture(request) -> dict:
    """The two architectures of the papers: group norm and norms after, layer norm and norms before."""
    return request.param


@pytest.fixture
def torchaudio_sizes(architecture) -> dict:
    """The same tiny sizes as arguments of torchaudio's model factories."""
    return dict(
        extractor_mode=f"{architecture['feat_extract_norm']}_norm",
        extractor_conv_layer_config=[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2,
        extractor_conv_bias=architecture["conv_bias"],
        encoder_embed_dim=32,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=3,
        encoder_num_heads=4,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=64,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=architecture["do_stable_layer_norm"],
        encoder_layer_drop=0.0,
    )


@pytest.fixture
def make_tiny():
    """`make_tiny(model_class, seed=0, **config_fields)`: a tiny model, ours or stock, in eval mode.

    Weights are a function of the seed and their names: ours and its stock counterpart get the same.
    """
    return tiny_model


@pytest.fixture
def randomize():
    """`randomize(module)` gives every weight a random value, norms and biases too."""
    return randomize_weights


@pytest.fixture
def tiny_wav2vec2():
    """wav2vec 2.0 for pretraining, of the BASE architecture; its encoder is `base_model`."""
    return tiny_model(hf_ssl_speech.SSLWav2Vec2ForPreTraining)


@pytest.fixture
def tiny_hubert():
    """HuBERT for pretraining with 10 units, of the BASE architecture; its encoder is `base_model`."""
    return tiny_model(hf_ssl_speech.SSLHubertForPreTraining)


@pytest.fixture
def corpora() -> Path:
    """The folder of real speech that the environment variable SPEECH_CORPORA names."""
    folder = os.environ.get("SPEECH_CORPORA")
    if not folder:
        pytest.skip("real speech is needed: set SPEECH_CORPORA to the folder of the corpora")
    return Path(folder)


@pytest.fixture
def named_corpora(monkeypatch):
    """Sets the environment variables that the configurations of the package name, where they are not set."""
    for path in (Path(__file__).parents[1] / "examples" / "configs").glob("*.yaml"):
        for name in re.findall(r"\$(\w+)", path.read_text()):
            monkeypatch.setenv(name, os.environ.get(name, "/corpora"))


def tiny_model(model_class, seed: int = 0, **fields):
    config_class = model_class.config_class
    if hasattr(config_class, "num_codevectors_per_group"):
        fields = WAV2VEC2 | fields
    elif hasattr(config_class, "num_units"):
        fields = dict(num_units=[10], unit_embedding_dim=12) | fields
    model = model_class(config_class(**(TINY | fields))).eval()
    torch.manual_seed(seed)
    return randomize_weights(model)


def save_encoder(folder, model_class):
    """Writes a tiny model, with what prepares its waveforms, to a folder."""
    model = tiny_model(model_class)
    model.save_pretrained(folder)
    feature_extractor_for(model.config).save_pretrained(folder)
    return folder


@torch.no_grad()
def randomize_weights(module):
    for name, weight in sorted(module.named_parameters()):
        if weight.dim() == 1:
            weight.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.2)
        else:
            weight.normal_(std=weight[0].numel() ** -0.5)
    return module
