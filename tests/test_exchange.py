"""Our models and stock ones are the same models: there and back, in memory and through folders, to zero."""

import pytest
import torch
import torchaudio
from transformers import (
    HubertForCTC,
    HubertForSequenceClassification,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2ForAudioFrameClassification,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
)

import hf_ssl_speech
from hf_ssl_speech.hub.exchange import from_torchaudio, from_transformers, to_transformers
from hf_ssl_speech.models.classes import STOCK_CLASSES

KINDS = list(STOCK_CLASSES.items())
HEADS = [kind for kind in KINDS if "ForPreTraining" not in kind[0].__name__]


@torch.no_grad()
def all_outputs(model: PreTrainedModel) -> list[torch.Tensor]:
    """Every hidden state and what the head makes of them, for a second and a bit of noise."""
    waveforms = torch.randn(2, 17_000, generator=torch.Generator().manual_seed(1))
    output = model.eval()(waveforms, output_hidden_states=True)
    return [*output.hidden_states, output["logits"] if "logits" in output else output.hidden_states[-1]]


def weights_differ_by(first: PreTrainedModel, second: PreTrainedModel) -> float:
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def assert_same_outputs(first: PreTrainedModel, second: PreTrainedModel):
    pairs = list(zip(all_outputs(first), all_outputs(second), strict=True))
    assert len(pairs) == 1 + 3 + 1
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize(("our_class", "stock_class"), KINDS)
def test_ours_goes_to_stock_and_back_to_zero(our_class, stock_class, architecture, make_tiny, tmp_path):
    ours = make_tiny(our_class, vocab_size=9, num_labels=4, use_weighted_layer_sum=True, **architecture)
    stock = to_transformers(ours)
    assert type(stock) is stock_class
    stock.save_pretrained(tmp_path)
    loaded = stock_class.from_pretrained(tmp_path)
    back = from_transformers(tmp_path)
    assert type(back) is our_class
    assert weights_differ_by(ours, stock) == weights_differ_by(ours, loaded) == weights_differ_by(ours, back) == 0.0
    for model in (stock, loaded, back):
        assert_same_outputs(ours, model)


@pytest.mark.parametrize(("our_class", "stock_class"), KINDS)
def test_stock_goes_to_ours_and_back_to_zero(our_class, stock_class, architecture, make_tiny, tmp_path):
    stock = make_tiny(stock_class, vocab_size=9, num_labels=4, **architecture)
    ours = from_transformers(stock)
    assert type(ours) is our_class
    ours.save_pretrained(tmp_path)
    loaded = our_class.from_pretrained(tmp_path)
    back = to_transformers(loaded)
    assert type(back) is stock_class
    assert weights_differ_by(stock, ours) == weights_differ_by(stock, loaded) == weights_differ_by(stock, back) == 0.0
    for model in (ours, loaded, back):
        assert_same_outputs(stock, model)


def test_the_contrastive_head_gives_stocks_numbers(make_tiny):
    ours = make_tiny(hf_ssl_speech.SSLWav2Vec2ForPreTraining)
    stock = to_transformers(ours)
    frames = torch.randn(2, 7, 16)
    quantized = ours.quantizer(frames)
    theirs, _ = stock.quantizer(frames)
    torch.testing.assert_close(quantized.vectors, theirs, rtol=0, atol=0)
    assert torch.equal(ours.project_q(quantized.vectors), stock.project_q(theirs))


def test_hubert_pretraining_gives_its_encoder_to_stock(tiny_hubert):
    stock = to_transformers(tiny_hubert)
    assert type(stock) is HubertModel
    assert_same_outputs(tiny_hubert.base_model, stock)


def test_stock_config_fields_are_carried_over(make_tiny):
    fields = dict(hidden_dropout=0.21, mask_time_prob=0.33, mask_time_length=7, layerdrop=0.04, vocab_size=11)
    ours = make_tiny(hf_ssl_speech.SSLWav2Vec2ForCTC, id2label={0: "yes", 1: "no"}, pad_token_id=3, **fields)
    stock = to_transformers(ours)
    back = from_transformers(stock)
    for config in (stock.config, back.config):
        assert {name: getattr(config, name) for name in fields} == fields
        assert config.id2label == {0: "yes", 1: "no"}
        assert config.pad_token_id == 3
    assert stock.config.model_type == "wav2vec2"
    assert not hasattr(stock.config, "feature_penalty_weight")
    assert "auto_map" not in stock.config.to_dict()


def test_exchanged_models_share_no_memory(tiny_wav2vec2):
    stock = to_transformers(tiny_wav2vec2)
    ours = {weight.data_ptr() for weight in tiny_wav2vec2.parameters()}
    assert ours.isdisjoint(weight.data_ptr() for weight in stock.parameters())


def test_precision_mode_and_attention_are_kept(make_tiny):
    ours = make_tiny(hf_ssl_speech.SSLHubertModel, attn_implementation="eager").to(torch.bfloat16).train()
    stock = to_transformers(ours)
    assert stock.dtype == torch.bfloat16 and stock.training
    assert stock.config._attn_implementation == "eager"


def test_a_stock_model_that_never_masks_has_no_mask_embedding_and_is_exchanged_all_the_same(make_tiny):
    stock = make_tiny(HubertModel, mask_time_prob=0.0)
    assert not hasattr(stock, "masked_spec_embed")
    ours = from_transformers(stock)
    assert_same_outputs(stock, ours)
    assert_same_outputs(stock, to_transformers(ours))


def test_a_checkpoint_that_names_no_class_is_taken_as_an_encoder(make_tiny, tmp_path):
    stock = make_tiny(Wav2Vec2Model)
    stock.save_pretrained(tmp_path)
    stock.config.architectures = None
    stock.config.save_pretrained(tmp_path)
    assert_same_outputs(stock, from_transformers(tmp_path))


def test_unsupported_stock_models_are_refused_in_words(make_tiny, tmp_path):
    frame_classifier = make_tiny(Wav2Vec2ForAudioFrameClassification)
    with pytest.raises(ValueError, match="Wav2Vec2ForAudioFrameClassification has no counterpart"):
        from_transformers(frame_classifier)
    frame_classifier.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Wav2Vec2ForAudioFrameClassification has no counterpart"):
        from_transformers(tmp_path)


@pytest.mark.parametrize(
    ("stock_class", "fields"),
    [
        (Wav2Vec2Model, dict(add_adapter=True)),
        (Wav2Vec2ForCTC, dict(adapter_attn_dim=4, do_stable_layer_norm=True)),
        (HubertForCTC, dict(conv_pos_batch_norm=True)),
    ],
)
def test_stock_modules_that_we_do_not_have_are_refused_in_words(stock_class, fields, make_tiny, tmp_path):
    stock = make_tiny(stock_class, **fields)
    with pytest.raises(ValueError, match=r"adapters.* batch norm .* no counterpart"):
        from_transformers(stock)
    stock.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"sets {next(iter(fields))}.* no such modules"):
        from_transformers(tmp_path)


def test_ours_is_not_taken_for_stock(tiny_hubert, tmp_path):
    tiny_hubert.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="already a checkpoint of this package"):
        from_transformers(tmp_path)
    with pytest.raises(ValueError, match="SSLHubertForPreTraining has no counterpart"):
        from_transformers(tiny_hubert)
    with pytest.raises(ValueError, match="HubertModel has no stock counterpart"):
        to_transformers(to_transformers(tiny_hubert))


def test_every_public_model_has_its_counterpart():
    kinds = {Wav2Vec2ForPreTraining, Wav2Vec2ForSequenceClassification, HubertForSequenceClassification}
    assert kinds < set(STOCK_CLASSES.values())
    assert all(ours.__name__ == f"SSL{stock.__name__}" for ours, stock in STOCK_CLASSES.items())
    models = {getattr(hf_ssl_speech, name) for name in dir(hf_ssl_speech) if name.startswith("SSL")}
    models = {model for model in models if issubclass(model, PreTrainedModel)}
    students = {hf_ssl_speech.SSLHubertForPreTraining, hf_ssl_speech.SSLHubertForDistillation}
    assert models == STOCK_CLASSES.keys() | students


def test_a_torchaudio_encoder_tells_its_architecture(architecture, torchaudio_sizes):
    dropouts = dict(projection=0.01, attention=0.02, ff_interm=0.03)
    sizes = torchaudio_sizes | {f"encoder_{name}_dropout": share for name, share in dropouts.items()}
    sizes |= dict(encoder_dropout=0.04, encoder_layer_drop=0.05)
    config = from_torchaudio(torchaudio.models.wav2vec2_model(**sizes, aux_num_out=None)).config
    fields = ("feat_proj_dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "layerdrop")
    assert [getattr(config, name) for name in fields] == [0.01, 0.02, 0.03, 0.04, 0.05]
    assert {name: getattr(config, name) for name in architecture} == architecture
    assert config.conv_layers == [(10, 5)] + [(3, 2)] * 4 + [(2, 2)] * 2
    assert (config.intermediate_size, config.num_attention_heads, config.num_conv_pos_embeddings) == (64, 4, 16)


@pytest.mark.parametrize("objective", ["Wav2Vec2", "Hubert"])
def test_a_torchaudio_ctc_model_gives_the_same_logits(objective, torchaudio_sizes, randomize):
    theirs = randomize(torchaudio.models.wav2vec2_model(**torchaudio_sizes, aux_num_out=29)).eval()
    ours = from_torchaudio(theirs, getattr(hf_ssl_speech, f"SSL{objective}Config"))
    assert type(ours).__name__ == f"SSL{objective}ForCTC"
    waveforms = torch.randn(2, 8_000)
    torch.testing.assert_close(ours(waveforms).logits, theirs(waveforms)[0], rtol=1e-5, atol=1e-5)


def test_other_torchaudio_models_are_refused_in_words(torchaudio_sizes):
    wavlm = dict(torchaudio_sizes, encoder_num_buckets=8, encoder_max_distance=16, aux_num_out=None)
    with pytest.raises(ValueError, match="WavLM's attention"):
        from_torchaudio(torchaudio.models.wavlm_model(**wavlm))
    with pytest.raises(ValueError, match=r"got Linear.*`\.model`"):
        from_torchaudio(torch.nn.Linear(2, 2))


def test_published_torchaudio_names_all_have_a_place():
    with torch.device("meta"):  # names and shapes of the real sizes, no numbers
        encoder = from_torchaudio(torchaudio.models.wav2vec2_base())
        recognizer = from_torchaudio(torchaudio.models.hubert_large(aux_num_out=32), hf_ssl_speech.SSLHubertConfig)
    assert type(encoder) is hf_ssl_speech.SSLWav2Vec2Model and encoder.config.num_hidden_layers == 12
    assert type(recognizer) is hf_ssl_speech.SSLHubertForCTC and recognizer.config.vocab_size == 32
