"""Truths of the encoder: the same numbers as stock and torchaudio, and nothing ever leaks from padding."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torchaudio
from safetensors.torch import save_file
from torch import nn
from transformers import HubertModel, Wav2Vec2Model

from hf_ssl_speech import (
    SSLHubertForCTC,
    SSLHubertForPreTraining,
    SSLHubertModel,
    SSLWav2Vec2Config,
    SSLWav2Vec2ForPreTraining,
    SSLWav2Vec2Model,
)
from hf_ssl_speech.hub.exchange import from_torchaudio, to_transformers
from hf_ssl_speech.models.conv_encoder import ValidGroupNorm
from hf_ssl_speech.models.frames import num_frames

PAIRS = [(SSLWav2Vec2Model, Wav2Vec2Model), (SSLHubertModel, HubertModel)]
OURS = [SSLWav2Vec2Model, SSLHubertModel]
EXACT = 1e-10  # in float64, where what is exact differs by rounding alone: 1e-16 on every processor


def difference(first, second) -> float:
    return (first - second).abs().max().item()


def padded_batch(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    attention_mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randn(len(lengths), max(lengths)) * attention_mask, attention_mask


def gradients(model, **inputs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs).last_hidden_state.square().sum().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@torch.no_grad()
def all_hidden_states(model, waveforms, **inputs) -> tuple[torch.Tensor, ...]:
    output = model(waveforms, output_hidden_states=True, **inputs)
    return (*output.hidden_states, output.last_hidden_state)


@pytest.mark.parametrize(("our_class", "stock_class"), PAIRS)
def test_every_hidden_state_is_that_of_the_stock_model(our_class, stock_class, architecture, make_tiny):
    stock = make_tiny(stock_class, **architecture)
    ours = make_tiny(our_class, seed=1, **architecture)
    waveforms = torch.randn(2, 8_000)
    assert difference(ours(waveforms).last_hidden_state, stock(waveforms).last_hidden_state) > 0.1
    ours.load_state_dict(stock.state_dict())
    mine, theirs = all_hidden_states(ours, waveforms), all_hidden_states(stock, waveforms)
    assert len(mine) == len(theirs) == 1 + 3 + 1
    assert [difference(*pair) for pair in zip(mine, theirs)] == [0.0] * 5


def test_the_quantizer_sees_the_features_that_stock_gives_it(architecture, make_tiny):
    stock, ours = make_tiny(Wav2Vec2Model, **architecture), make_tiny(SSLWav2Vec2Model, **architecture)
    waveforms = torch.randn(2, 8_000)
    assert difference(ours(waveforms).extract_features, stock(waveforms).extract_features) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(("our_class", "stock_class"), PAIRS)
@pytest.mark.parametrize("size", ["base", "large"])
def test_the_published_sizes_give_the_hidden_states_of_stock(our_class, stock_class, size, randomize):
    ours = randomize(our_class(our_class.config_class.preset(size))).eval()
    stock = to_transformers(ours)
    assert type(stock) is stock_class
    waveforms = torch.randn(1, 4_000)
    mine, theirs = all_hidden_states(ours, waveforms), all_hidden_states(stock, waveforms)
    assert len(mine) == len(theirs) == {"base": 12, "large": 24}[size] + 2
    assert all(difference(*pair) == 0.0 for pair in zip(mine, theirs))


@pytest.mark.parametrize(("our_class", "stock_class"), PAIRS)
def test_eager_attentions_are_those_of_stock(our_class, stock_class, architecture, make_tiny):
    stock = make_tiny(stock_class, attn_implementation="eager", **architecture)
    ours = make_tiny(our_class, attn_implementation="eager", **architecture)
    waveforms, attention_mask = padded_batch([8_000, 5_000])
    if architecture["feat_extract_norm"] == "group":  # padding changes what stock's first norm gives
        attention_mask = None
    mine = ours(waveforms, attention_mask, output_attentions=True).attentions
    theirs = stock(waveforms, attention_mask, output_attentions=True).attentions
    assert len(mine) == len(theirs) == 3
    assert mine[0].shape == (2, 4, 24, 24)
    assert all(difference(*pair) == 0.0 for pair in zip(mine, theirs))


def test_eager_and_sdpa_attention_agree(architecture, make_tiny):
    waveforms, attention_mask = padded_batch([8_000, 5_000])
    eager = make_tiny(SSLHubertModel, attn_implementation="eager", **architecture).double()
    sdpa = make_tiny(SSLHubertModel, attn_implementation="sdpa", **architecture).double()
    mine, theirs = (model(waveforms.double(), attention_mask) for model in (eager, sdpa))
    valid = mine.frame_mask
    assert difference(mine.last_hidden_state[valid], theirs.last_hidden_state[valid]) < EXACT


def test_attentions_of_sdpa_are_refused_in_words(make_tiny):
    with pytest.raises(ValueError, match="attn_implementation='eager'"):
        make_tiny(SSLHubertModel)(torch.randn(1, 1_000), output_attentions=True)


@pytest.mark.parametrize("our_class", OURS)
def test_a_padded_utterance_gets_the_frames_it_gets_alone(our_class, architecture, make_tiny):
    model = make_tiny(our_class, **architecture).double()
    waveforms, attention_mask = padded_batch([12_000, 7_003, 400])
    waveforms = waveforms.double()
    together = all_hidden_states(model, waveforms, attention_mask=attention_mask)
    for row, length in enumerate(attention_mask.sum(-1).tolist()):
        alone = all_hidden_states(model, waveforms[row : row + 1, :length])
        for in_batch, single in zip(together, alone):
            assert difference(in_batch[row, : single.shape[1]], single[0]) < EXACT


def test_what_fills_the_padding_does_not_matter(architecture, make_tiny):
    model = make_tiny(SSLHubertModel, **architecture).double()
    waveforms, attention_mask = padded_batch([12_000, 7_000])
    waveforms = waveforms.double()
    noisy = waveforms + 5 * torch.randn_like(waveforms) * (1 - attention_mask)
    with torch.no_grad():
        silent, noisy = model(waveforms, attention_mask), model(noisy, attention_mask)
    valid = silent.frame_mask
    assert valid.sum(-1).tolist() == [37, 21]
    assert difference(silent.last_hidden_state[valid], noisy.last_hidden_state[valid]) < EXACT


def test_an_audio_too_short_for_a_frame_spoils_no_other_row(architecture, make_tiny):
    model = make_tiny(SSLHubertModel, **architecture).double()
    waveforms, attention_mask = padded_batch([8_000, 100])
    waveforms = waveforms.double()
    output = model(waveforms, attention_mask)
    assert output.frame_mask.sum(-1).tolist() == [24, 0]
    assert output.last_hidden_state.isfinite().all()
    assert difference(output.last_hidden_state[0], model(waveforms[:1]).last_hidden_state[0]) < EXACT


def test_stock_group_norm_lets_padding_change_real_frames(make_tiny):
    """Why `ValidGroupNorm` exists."""
    model = make_tiny(Wav2Vec2Model, feat_extract_norm="group")
    waveforms, attention_mask = padded_batch([12_000, 4_000])
    with torch.no_grad():
        together = model(waveforms, attention_mask).last_hidden_state[1]
        alone = model(waveforms[1:, :4_000]).last_hidden_state[0]
    assert difference(together[: len(alone)], alone) > 0.1


def test_one_second_gives_49_frames(tiny_hubert):
    assert tiny_hubert.base_model(torch.randn(1, 16_000)).last_hidden_state.shape == (1, 49, 32)
    assert num_frames(16_000, tiny_hubert.config.conv_layers) == 49
    assert num_frames(250_000, tiny_hubert.config.conv_layers) == 781
    lengths = torch.tensor([399, 400, 719, 720])
    assert tiny_hubert.num_frames(lengths).tolist() == [0, 1, 1, 2]


def test_another_conv_stack_changes_the_frame_rate_and_masks_and_labels_follow(make_tiny):
    stack = dict(conv_dim=(16, 16, 16), conv_kernel=(10, 8, 4), conv_stride=(5, 4, 4))
    model = make_tiny(SSLHubertForPreTraining, **stack)
    waveforms, attention_mask = padded_batch([8_000, 4_000])
    frames = (((8_000 - 10) // 5 + 1 - 8) // 4 + 1 - 4) // 4 + 1
    assert (model.config.inputs_to_logits_ratio, model.config.window_samples) == (80, 10 + 7 * 5 + 3 * 20)
    assert model.num_frames(8_000) == frames == 99

    positions = torch.tensor([[3, 4, 98], [0, 1, -1]])
    mask = torch.zeros(2, frames, dtype=torch.bool)
    mask[0, [3, 4, 98]] = mask[1, [0, 1]] = True
    labels = torch.where(mask, 7, -100)
    output = model(waveforms, attention_mask, mask, positions, labels)
    assert output.statistics["frames"] == 99 + model.num_frames(4_000)
    assert output.loss.isfinite()
    with pytest.raises(ValueError, match="another conv stack"):
        model(waveforms, attention_mask, mask, positions, labels[:, :24])
    with pytest.raises(ValueError, match="Give it this model's config"):
        model(waveforms, attention_mask, mask[:, :24], positions, labels)


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("our_class", OURS)
def test_gradient_checkpointing_gives_the_same_gradients(our_class, architecture, reentrant, make_tiny):
    model = make_tiny(our_class, **architecture).double().train()
    waveforms, attention_mask = padded_batch([4_000, 3_000])
    calls = []
    model.encoder.layers[0].attention.register_forward_pre_hook(lambda *_: calls.append(1))
    plain = gradients(model, input_values=waveforms, attention_mask=attention_mask)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    checkpointed = gradients(model, input_values=waveforms, attention_mask=attention_mask)
    assert len(calls) == 1 + 2
    # What a layer's input gets from the layer's parts may be added up in another order.
    torch.testing.assert_close(checkpointed, plain, rtol=1e-10, atol=1e-12)
    assert not waveforms.requires_grad


def test_reentrant_checkpointing_trains_a_layer_below_which_all_is_frozen(make_tiny):
    model = make_tiny(SSLHubertModel).train().requires_grad_(False)
    model.encoder.layers[1].requires_grad_(True)
    waveforms = torch.randn(1, 4_000)
    plain = gradients(model, input_values=waveforms)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    checkpointed = gradients(model, input_values=waveforms)
    assert plain.keys() == checkpointed.keys() and len(plain) == 16
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_layer_drop_is_a_function_of_the_update(make_tiny):
    encoder = make_tiny(SSLHubertModel, layerdrop=0.5, num_hidden_layers=12).train()
    waveforms = torch.randn(1, 2_000)
    kept, outputs = {}, {}
    for update in (1, 2, 3, 1, 2, 3):
        encoder.set_update(update)
        kept.setdefault(update, []).append(encoder.encoder.kept_layers(waveforms.device))
        torch.rand(update)  # whatever else draws from torch's generator
        outputs.setdefault(update, []).append(encoder(waveforms).last_hidden_state)
    assert all(first == second for first, second in kept.values())
    assert all(torch.equal(*pair) for pair in outputs.values())
    assert kept[1] != kept[2] != kept[3] != kept[1]


def test_layer_drop_drops_its_share_of_layers_in_training_only(make_tiny):
    transformer = make_tiny(SSLHubertModel, layerdrop=0.3, num_hidden_layers=4).train().encoder
    drops = torch.zeros(4)
    for update in range(2_000):
        transformer.set_update(update)
        drops += ~transformer.kept
    assert ((drops / 2_000 - 0.3).abs() < 0.04).all()
    assert transformer.eval().kept_layers(torch.device("cpu")) == [True] * 4


def test_layer_drop_needs_no_new_graph_and_drops_the_same_layers_when_compiled(make_tiny):
    encoder = make_tiny(SSLHubertModel, layerdrop=0.5, num_hidden_layers=4).double().train().encoder
    hidden, graphs = torch.randn(1, 9, 32, dtype=torch.float64, requires_grad=True), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def run(hidden):
        return encoder(hidden, None, output_hidden_states=False, output_attentions=False)[0]

    torch.compiler.reset()
    compiled = torch.compile(run, backend=count, fullgraph=True)
    for update in range(6):
        encoder.set_update(update)
        assert (compiled(hidden) - run(hidden)).abs().max() < EXACT
    assert len(graphs) == 1


def test_the_conv_encoder_gets_a_tenth_of_the_gradient(architecture, make_tiny):
    slow = make_tiny(SSLWav2Vec2Model, feature_gradient_scale=0.1, **architecture).double().train()
    fast = make_tiny(SSLWav2Vec2Model, feature_gradient_scale=1.0, **architecture).double().train()
    waveforms = torch.randn(1, 4_000, dtype=torch.float64)
    slow, fast = gradients(slow, input_values=waveforms), gradients(fast, input_values=waveforms)
    assert slow.keys() == fast.keys()
    for name, gradient in fast.items():
        scale = 0.1 if name.startswith("feature_extractor") else 1.0
        torch.testing.assert_close(slow[name], gradient * scale, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("our_class", OURS)
def test_a_fully_masked_input_tells_the_context_nothing_about_the_audio(our_class, architecture, make_tiny):
    model = make_tiny(our_class, **architecture)
    mask = torch.ones(1, 24, dtype=torch.bool)
    first, second = torch.randn(1, 8_000), torch.randn(1, 8_000)
    assert torch.equal(
        model(first, mask_time_indices=mask).last_hidden_state, model(second, mask_time_indices=mask).last_hidden_state
    )
    mask[0, 10] = False
    assert not torch.equal(
        model(first, mask_time_indices=mask).last_hidden_state, model(second, mask_time_indices=mask).last_hidden_state
    )


def test_masked_frames_become_the_mask_embedding_and_masked_channels_zero(tiny_wav2vec2):
    encoder = tiny_wav2vec2.base_model
    hidden = torch.randn(2, 5, 32)
    before = hidden.clone()
    frames = torch.zeros(2, 5, dtype=torch.bool)
    channels = torch.zeros(2, 32, dtype=torch.bool)
    frames[0, 1] = channels[1, 3] = True
    hidden_after = encoder.hide(hidden, frames, channels)
    assert torch.equal(hidden_after[0, 1], encoder.masked_spec_embed)
    assert (hidden_after[1, :, 3] == 0).all()
    changed = hidden_after != before
    assert changed.sum() == 32 + 5
    assert torch.equal(hidden, before)


def test_too_short_audio_is_refused_in_words(tiny_hubert):
    with pytest.raises(ValueError, match="399 samples is shorter than the 400 samples"):
        tiny_hubert.base_model(torch.randn(1, 399))


def test_a_mask_of_another_shape_is_refused_in_words(tiny_hubert):
    with pytest.raises(ValueError, match=r"\(1, 50\).*\(1, 49\)"):
        tiny_hubert.base_model(torch.randn(1, 16_000), mask_time_indices=torch.ones(1, 50, dtype=torch.bool))


@pytest.mark.parametrize(("our_class", "stock_class"), PAIRS)
def test_a_checkpoint_with_the_old_names_of_weight_norm_loads(our_class, stock_class, make_tiny, tmp_path):
    stock = make_tiny(stock_class)
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    weights = {}
    for name, weight in stock.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        weights[name] = weight.contiguous()
    assert {name.split(".")[-1] for name in weights if "pos_conv" in name} == {"weight_g", "weight_v", "bias"}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    stock.config.save_pretrained(tmp_path)

    ours, report = our_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    waveforms = torch.randn(1, 8_000)
    ours.save_pretrained(tmp_path / "again")
    for model in (ours, our_class.from_pretrained(tmp_path / "again")):
        assert difference(model.eval()(waveforms).last_hidden_state, stock(waveforms).last_hidden_state) == 0.0


def test_every_layer_is_that_of_torchaudio(torchaudio_sizes, randomize):
    theirs = randomize(torchaudio.models.wav2vec2_model(**torchaudio_sizes, aux_num_out=None)).eval()
    ours, theirs = from_torchaudio(theirs).double(), theirs.double()
    waveforms = torch.randn(2, 8_000, dtype=torch.float64)
    with torch.no_grad():
        output = ours(waveforms, output_hidden_states=True)
        layers, _ = theirs.extract_features(waveforms)
        last, _ = theirs(waveforms)
    assert len(layers) == len(output.hidden_states) - 1 == 3
    assert all(difference(*pair) < EXACT for pair in zip(output.hidden_states[1:], layers))
    assert difference(output.last_hidden_state, last) < EXACT


def statistics_of(weight) -> tuple[float, float]:
    return weight.mean().item(), weight.std().item()


def uniform(low: float, high: float) -> tuple[float, float]:
    return (low + high) / 2, (high - low) / math.sqrt(12)


def test_initial_weights_have_the_published_statistics():
    config = SSLWav2Vec2Config.preset(
        "tiny", num_hidden_layers=1, intermediate_size=512, feat_extract_norm="layer", conv_bias=True
    )
    model = SSLWav2Vec2ForPreTraining(config)
    encoder = model.wav2vec2
    hidden, channels = config.hidden_size, config.conv_dim[-1]
    position = encoder.encoder.pos_conv_embed.conv
    expected = [
        (encoder.feature_extractor.conv_layers[1].conv.weight, (0, math.sqrt(2 / (channels * 3)))),
        (position.parametrizations.weight.original1, (0, math.sqrt(4 / (config.num_conv_pos_embeddings * hidden)))),
        (encoder.encoder.layers[0].attention.q_proj.weight, (0, 0.02)),
        (encoder.encoder.layers[0].feed_forward.output_dense.weight, (0, 0.02)),
        (encoder.feature_projection.projection.weight, uniform(-(channels**-0.5), channels**-0.5)),
        (model.project_hid.weight, uniform(-(hidden**-0.5), hidden**-0.5)),
        (model.project_q.weight, uniform(-(config.codevector_dim**-0.5), config.codevector_dim**-0.5)),
        (model.quantizer.codevectors, uniform(0, 1)),
        (model.quantizer.weight_proj.weight, (0, 1)),
    ]
    for weight, (mean, std) in expected:
        measured_mean, measured_std = statistics_of(weight)
        assert abs(measured_mean - mean) < 0.03 * std + 3 * std / math.sqrt(weight.numel())
        assert measured_std == pytest.approx(std, rel=0.03)
    assert (encoder.masked_spec_embed >= 0).all() and (encoder.masked_spec_embed < 1).all()
    assert statistics_of(encoder.masked_spec_embed) == pytest.approx(uniform(0, 1), rel=0.2)
    torch.testing.assert_close(position.weight, position.parametrizations.weight.original1)
    for bias in (position.bias, model.quantizer.weight_proj.bias, encoder.encoder.layers[0].attention.q_proj.bias):
        assert not bias.any()
    assert model.quantizer.temperature == 2.0


def test_initial_unit_embeddings_and_projections_have_the_published_statistics(make_tiny):
    config = make_tiny(SSLHubertForPreTraining, num_units=[500], unit_embedding_dim=64, hidden_size=128).config
    model = SSLHubertForPreTraining(config)
    bound = 128**-0.5
    assert statistics_of(model.unit_embeddings[0].weight) == pytest.approx(uniform(0, 1), rel=0.03)
    assert statistics_of(model.to_unit_space[0].weight)[1] == pytest.approx(uniform(-bound, bound)[1], rel=0.03)


def test_norms_start_as_identity(make_tiny, architecture):
    model = make_tiny(SSLHubertModel, **architecture)
    fresh = SSLHubertModel(copy.deepcopy(model.config))
    norms = [module for module in fresh.modules() if isinstance(module, nn.LayerNorm | nn.GroupNorm)]
    assert len(norms) == (7 if architecture["feat_extract_norm"] == "layer" else 1) + 1 + 1 + 2 * 3
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)


def test_under_bf16_the_first_norm_of_a_padded_row_is_as_exact_as_alone():
    """Statistics, scale and shift are in float32: all that is left is rounding to bf16, 2 ** -8 of the value."""
    norm = ValidGroupNorm(8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    alone = (torch.randn(1, 8, 200) + 20).bfloat16()  # far from zero: scale and shift must cancel
    padded, mask = F.pad(alone, (0, 50)), torch.arange(250)[None] < 200
    exact = norm(alone.float())
    rounded = norm(padded, mask)
    assert rounded.dtype == torch.bfloat16
    # A value below 1e-2 may also carry the float32 rounding of the cancelled terms.
    torch.testing.assert_close(rounded[..., :200].float(), exact, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("scale", [32_768, torch.int16])
def test_integers_that_were_not_scaled_are_told_how_to_be(tiny_wav2vec2, scale):
    waveform = 0.1 * torch.randn(1, 4_000)
    wrong = (waveform * 32_768).to(scale) if scale is torch.int16 else waveform * scale
    for model in (tiny_wav2vec2, tiny_wav2vec2.base_model):
        with pytest.raises(ValueError, match=r"divide int16 samples by 32,768"):
            model.eval()(wrong)
    spike = torch.zeros(1, 16_000)
    spike[0, 5_000] = 1
    tiny_wav2vec2.base_model((spike - spike.mean()) / spike.std())  # the loudest that a normalised second can be


def test_an_encoder_is_taken_from_a_checkpoint_with_a_head_as_a_matter_of_course(tiny_hubert, tmp_path):
    tiny_hubert.save_pretrained(tmp_path)
    _, report = SSLHubertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
    _, report = SSLHubertForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert sorted(report["missing_keys"]) == ["lm_head.bias", "lm_head.weight"]
