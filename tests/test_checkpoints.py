"""Checkpoints: saved and found by Auto classes, with and without the package, whole or damaged; and the heads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    AutoModelForPreTraining,
)

import hf_ssl_speech
from hf_ssl_speech import SSLHubertForCTC, SSLHubertModel, SSLWav2Vec2Config
from hf_ssl_speech.models import installing

PROJECT = Path(hf_ssl_speech.__file__).parents[1]
AUTO_CLASSES = {
    "Model": AutoModel,
    "ForPreTraining": AutoModelForPreTraining,
    "ForCTC": AutoModelForCTC,
    "ForSequenceClassification": AutoModelForAudioClassification,
}
HIDE_THE_PACKAGE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "hf_ssl_speech":
            raise ModuleNotFoundError("No module named 'hf_ssl_speech'")

sys.meta_path.insert(0, Hidden())
"""
LOAD_A_STRANGERS_FOLDER = """
import sys
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
print(type(model).__name__, model(torch.randn(1, 16_000)).last_hidden_state.shape[1])
"""


def run_python(script: str, folder: Path, working_folder: Path) -> subprocess.CompletedProcess:
    """A fresh interpreter elsewhere, which knows where the package is but has not imported it."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(working_folder)}
    return subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=working_folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("objective", ["SSLWav2Vec2", "SSLHubert"])
@pytest.mark.parametrize("head", AUTO_CLASSES)
def test_auto_classes_give_back_what_was_saved(objective, head, make_tiny, tmp_path):
    model = make_tiny(getattr(hf_ssl_speech, objective + head), vocab_size=7, num_labels=3)
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is type(model.config)
    assert config.to_diff_dict() == model.config.to_diff_dict() | {"architectures": [objective + head]}
    loaded, report = AUTO_CLASSES[head].from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(model)
    assert not any(report.values())
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())


def test_buffers_that_are_not_saved_come_back(tiny_wav2vec2, tmp_path):
    tiny_wav2vec2.set_update(10**6)
    tiny_wav2vec2.save_pretrained(tmp_path)
    assert type(tiny_wav2vec2).from_pretrained(tmp_path).quantizer.temperature == 2.0


def test_a_folder_holds_weights_config_and_a_module_that_imports_ours(tiny_hubert, tmp_path):
    tiny_hubert.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "model.safetensors",
        "config.json",
        "modeling_hf_ssl_speech.py",
    }
    assert "from hf_ssl_speech import *" in (tmp_path / "modeling_hf_ssl_speech.py").read_text()
    auto_map = AutoConfig.from_pretrained(tmp_path).auto_map
    assert auto_map["AutoModelForCTC"] == "modeling_hf_ssl_speech.SSLHubertForCTC"
    assert all(hasattr(hf_ssl_speech, name.split(".")[1]) for name in auto_map.values())


def test_who_never_imported_the_package_loads_with_trust_remote_code(tiny_hubert, tmp_path):
    folder, elsewhere = tmp_path / "checkpoint", tmp_path / "elsewhere"
    elsewhere.mkdir()
    tiny_hubert.save_pretrained(folder)
    result = run_python(LOAD_A_STRANGERS_FOLDER, folder, elsewhere)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["SSLHubertModel", "49"]


def test_who_has_not_installed_the_package_is_told_the_command(tiny_hubert, tmp_path, monkeypatch):
    monkeypatch.setattr(installing, "REPOSITORY", "https://example.org/speech.git")
    folder, elsewhere = tmp_path / "checkpoint", tmp_path / "elsewhere"
    elsewhere.mkdir()
    tiny_hubert.save_pretrained(folder)
    result = run_python(HIDE_THE_PACKAGE + LOAD_A_STRANGERS_FOLDER, folder, elsewhere)
    assert result.returncode != 0
    assert 'pip install "hf_ssl_speech @ git+https://example.org/speech.git"' in result.stderr


@pytest.mark.parametrize("load", [SSLHubertModel.from_pretrained, AutoModel.from_pretrained], ids=["ours", "auto"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_damaged_weights_are_refused_in_words(load, keep, make_tiny, tmp_path):
    make_tiny(SSLHubertModel).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(ValueError, match=f"weights in {tmp_path} are damaged.*earlier checkpoint"):
        load(tmp_path)


@pytest.mark.parametrize("load", [SSLHubertModel.from_pretrained, AutoModel.from_pretrained], ids=["ours", "auto"])
def test_weights_of_another_shape_are_refused_in_words(load, make_tiny, tmp_path):
    make_tiny(SSLHubertModel).save_pretrained(tmp_path)
    wider = make_tiny(SSLHubertModel, intermediate_size=128).config
    with pytest.raises(ValueError, match=f"weights in {tmp_path} have other shapes"):
        load(tmp_path, config=wider)


def test_a_missing_folder_stays_an_error_of_transformers(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        SSLHubertModel.from_pretrained(tmp_path / "nowhere")


def test_the_encoder_loads_from_a_pretraining_checkpoint_with_nothing_missing(tiny_hubert, tmp_path):
    tiny_hubert.save_pretrained(tmp_path)
    encoder, report = SSLHubertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    waveforms = torch.randn(1, 4_000)
    assert torch.equal(encoder(waveforms).last_hidden_state, tiny_hubert.base_model(waveforms).last_hidden_state)


def test_fine_tuning_from_a_pretraining_checkpoint_starts_only_the_head_afresh(tiny_hubert, tmp_path):
    tiny_hubert.save_pretrained(tmp_path)
    model, report = SSLHubertForCTC.from_pretrained(tmp_path, vocab_size=7, output_loading_info=True)
    assert set(report["missing_keys"]) == {"lm_head.weight", "lm_head.bias"}
    assert model.lm_head.weight.std().item() == pytest.approx((2 / (32 + 7)) ** 0.5, rel=0.2)  # Xavier
    for name, weight in tiny_hubert.base_model.state_dict().items():
        assert torch.equal(weight, model.base_model.state_dict()[name])


def test_a_preset_takes_overrides_and_an_unknown_one_is_refused_in_words():
    large = SSLWav2Vec2Config.preset("large", layerdrop=0.2)
    assert (large.hidden_size, large.codevector_dim, large.layerdrop) == (1024, 768, 0.2)
    with pytest.raises(ValueError, match=r"no preset 'huge'.*tiny, tiny-mel, small, base, large"):
        SSLWav2Vec2Config.preset("huge")
    with pytest.raises(ValueError, match="SSLWav2Vec2Config has no field num_units"):
        SSLWav2Vec2Config.preset("tiny", num_units=[100])


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (dict(conv_dim=(16,) * 6), "one entry per conv layer"),
        (dict(feat_extract_norm="batch"), "expected 'group' or 'layer'"),
        (dict(num_attention_heads=7), "does not split into 7 heads"),
        (dict(num_conv_pos_embedding_groups=7), "groups of the positional conv"),
        (dict(mask_time_length=0), "mask_time_length is 0; expected 1 to 100,000"),
        (dict(codevector_dim=255), "does not split into 2 groups"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_configuration_that_can_not_be_built_is_refused_in_words(mistake, words):
    with pytest.raises(StrictDataclassClassValidationError, match=words):
        SSLWav2Vec2Config(**mistake)


# ---- the heads ----


@pytest.fixture
def recognizer(make_tiny):
    return make_tiny(SSLHubertForCTC, vocab_size=7)


def padded_speech() -> dict[str, torch.Tensor]:
    attention_mask = (torch.arange(8_000) < torch.tensor([8_000, 5_000])[:, None]).long()
    return dict(input_values=torch.randn(2, 8_000) * attention_mask, attention_mask=attention_mask)


def test_ctc_loss_is_that_of_torch_per_token(recognizer):
    speech, labels = padded_speech(), torch.tensor([[3, 4, 4, 5], [6, 2, -100, -100]])
    output = recognizer(**speech, labels=labels)
    naive = 0.0
    for row, (frames, tokens) in enumerate(zip((24, 15), ([3, 4, 4, 5], [6, 2]))):
        log_probabilities = output.logits[row, :frames].log_softmax(-1)
        naive += F.ctc_loss(log_probabilities, torch.tensor(tokens), [frames], [len(tokens)], blank=0, reduction="sum")
    assert output.loss.item() == pytest.approx(naive.item() / 6, rel=1e-5)
    total = recognizer(**speech, labels=labels, num_items_in_batch=60).loss
    assert total.item() == pytest.approx(naive.item() / 60, rel=1e-5)


def test_a_row_whose_labels_do_not_fit_its_frames_counts_zero(recognizer):
    speech = padded_speech()
    fits = torch.tensor([[3, 4, 4, 5] + [-100] * 16, [2] * 20])
    output = recognizer(**speech, labels=fits, num_items_in_batch=1)
    alone = recognizer(speech["input_values"][:1], labels=fits[:1, :4], num_items_in_batch=1)
    assert output.loss.item() == pytest.approx(alone.loss.item(), rel=1e-5)
    output.loss.backward()
    assert all(weight.grad.isfinite().all() for weight in recognizer.parameters() if weight.grad is not None)


def test_a_label_beyond_the_head_is_refused_in_words(recognizer):
    with pytest.raises(ValueError, match=r"A label is 7 but the head has 7 outputs.*vocab_size=len\(tokenizer\)"):
        recognizer(torch.randn(1, 8_000), labels=torch.tensor([[1, 7]]))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_class_is_told_from_the_mean_over_real_frames(weighted, make_tiny):
    model = make_tiny(hf_ssl_speech.SSLWav2Vec2ForSequenceClassification, num_labels=3, use_weighted_layer_sum=weighted)
    speech = padded_speech()
    output = model(**speech, labels=torch.tensor([2, 0]))
    rows = [(speech["input_values"][row : row + 1, :samples]) for row, samples in enumerate((8_000, 5_000))]
    alone = torch.cat([model(row).logits for row in rows])
    torch.testing.assert_close(output.logits, alone, rtol=1e-4, atol=1e-5)
    assert output.loss.item() == pytest.approx(F.cross_entropy(alone, torch.tensor([2, 0])).item(), rel=1e-4)


def test_freezing_the_conv_encoder_stops_its_gradients_only(tiny_hubert):
    tiny_hubert.freeze_feature_encoder()
    frozen = {name for name, weight in tiny_hubert.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in tiny_hubert.named_parameters() if "feature_extractor" in name}


def test_a_checkpoint_of_the_other_objective_is_refused_in_words(make_tiny, tmp_path):
    make_tiny(hf_ssl_speech.SSLHubertModel).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is of type 'ssl-hubert', but SSLWav2Vec2Config reads"):
        hf_ssl_speech.SSLWav2Vec2Model.from_pretrained(tmp_path)
