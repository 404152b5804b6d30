"""Converts our models to transformers' stock classes and back, and from torchaudio, with equal outputs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl_speech.models.classes import CLASSES, STOCK_CLASSES, load_config, model_class
from hf_ssl_speech.models.configuration import SSLHubertConfig, SSLSpeechConfig, SSLWav2Vec2Config
from hf_ssl_speech.models.distillation import SSLHubertForDistillation
from hf_ssl_speech.models.encoder import SSLHubertModel, SSLSpeechPreTrainedModel, SSLWav2Vec2Model
from hf_ssl_speech.models.heads import SSLSpeechForCTC
from hf_ssl_speech.models.pretraining import SSLHubertForPreTraining

FINE_TUNING_MASKS = 0.05  # the budget of time masks that stock configurations have where nothing is said

# These describe the file a configuration came from, not the model.
_FILE_FIELDS = {"architectures", "transformers_version", "dtype"}

# Prefixes of torchaudio's weights and what they are called here; an encoder's, a CTC model's and a pretraining model's.
_ENCODER_NAMES = {
    "feature_extractor.": "feature_extractor.",
    "encoder.feature_projection.": "feature_projection.",
    "encoder.transformer.": "encoder.",
}
_CTC_NAMES = {"aux.": "lm_head."}
_PRETRAINING_NAMES = {
    "mask_generator.mask_embedding": "hubert.masked_spec_embed",
    "logit_generator.final_proj.": "to_unit_space.0.",
    "logit_generator.label_embeddings": "unit_embeddings.0.weight",
}


def to_transformers(model: SSLSpeechPreTrainedModel) -> PreTrainedModel:
    """Our model as the stock class of the same kind, which loads without this package.

    The outputs differ by zero wherever nothing is padded; with padding the group-norm models do better here (stock lets
    padding into the statistics of the first norm). Stock has no class for HuBERT pretraining, nor for students: their
    encoder is given.

    Stock masks frames by itself when it trains. A CTC model keeps the masks that it was fine-tuned with; all others get
    stock's own for fine-tuning, 5%, instead of those of pretraining. CTC losses are averaged over rows.

    Raises:
        ValueError: If the model is none of ours, or has what stock lacks (mel bands, a CTC head on a mix of layers).
    """
    if isinstance(model, SSLSpeechPreTrainedModel) and model.config.feat_extract_filters == "mel":
        raise ValueError("Stock models have no mel bands (feat_extract_filters): this one can only become ONNX.")
    if isinstance(model, SSLSpeechForCTC) and model.config.ctc_layer_mix:
        raise ValueError("Stock CTC models have no ctc_layer_mix: this one can't be exported, or not with its head.")
    if isinstance(model, (SSLHubertForPreTraining, SSLHubertForDistillation)):
        model = model.base_model
    if type(model) not in STOCK_CLASSES:
        raise ValueError(f"{type(model).__name__} has no stock counterpart: expected one of {_names(STOCK_CLASSES)}.")
    stock = _convert(model, STOCK_CLASSES[type(model)])
    stock.config.ctc_loss_reduction = "mean"  # a sum, stock's default, would scale with the batch
    if not isinstance(model, SSLSpeechForCTC):
        # Stock masks inside `forward` whenever it trains, and half of the frames, as in pretraining, is too much there.
        stock.config.mask_time_prob = min(stock.config.mask_time_prob, FINE_TUNING_MASKS)
        stock.config.mask_feature_prob = 0.0
    return stock


def from_transformers(model: PreTrainedModel | str | os.PathLike) -> SSLSpeechPreTrainedModel:
    """A stock wav2vec 2.0 or HuBERT model as ours, by name, so that every output is the same.

    Args:
        model: A stock model, a folder or a Hub id; of the latter two, `architectures` in `config.json` tells the class,
            and a checkpoint that names none is taken as an encoder.
    Raises:
        ValueError: If it is of another class, or has modules that ours do not have (adapters, batch norm in the
            positional conv).
    """
    if isinstance(model, PreTrainedModel):
        return _convert(model, _our_class(type(model).__name__))
    config = load_config(model)
    if isinstance(config, SSLSpeechConfig):
        raise ValueError(f"{model} is already a checkpoint of this package: load it with its class or an Auto class.")
    encoder = type(config).__name__.removesuffix("Config") + "Model"
    return _our_class((config.architectures or [encoder])[0]).from_pretrained(model)


def load_model(source: str | os.PathLike) -> PreTrainedModel:
    """The model in a folder or on the Hub, ours, or a stock one as ours, of the class that its configuration names.

    Raises:
        ValueError: If it is of another class.
    """
    config = load_config(source)
    if not isinstance(config, SSLSpeechConfig):
        return from_transformers(source)
    architecture = (config.architectures or [""])[0]
    if architecture not in CLASSES:
        raise ValueError(f"{source} holds {architecture or 'a model without a class'}, which is not of this package.")
    return CLASSES[architecture].from_pretrained(source)


def from_torchaudio(model: nn.Module, config_class: type[SSLSpeechConfig] | None = None) -> SSLSpeechPreTrainedModel:
    """A torchaudio wav2vec 2.0 or HuBERT model as ours; the outputs differ by rounding only.

    An encoder becomes `SSLWav2Vec2Model` or `SSLHubertModel`, one with a linear layer on top (`aux`) the class for CTC,
    with torchaudio's blank, 0; `HuBERTPretrainModel` becomes `SSLHubertForPreTraining` with its head. Encoders come
    without a mask embedding there, so theirs is a fresh one.

    Args:
        model: `torchaudio.models.Wav2Vec2Model` or `torchaudio.models.HuBERTPretrainModel`.
        config_class: `SSLWav2Vec2Config` (where nothing is said) or `SSLHubertConfig`: torchaudio has one class for the
            encoders of both. A `HuBERTPretrainModel` is HuBERT.
    Raises:
        ValueError: If it is another model, or has modules that ours do not have (WavLM's attention).
    """
    from torchaudio.models import HuBERTPretrainModel
    from torchaudio.models import Wav2Vec2Model as TorchaudioEncoder

    pretraining = isinstance(model, HuBERTPretrainModel)
    if not isinstance(model, TorchaudioEncoder | HuBERTPretrainModel):
        raise ValueError(
            f"Expected torchaudio's Wav2Vec2Model or HuBERTPretrainModel, got {type(model).__name__}. Of a pipeline's "
            "model that normalises waveforms, pass its `.model`."
        )
    if pretraining and config_class is SSLWav2Vec2Config:
        raise ValueError("HuBERTPretrainModel is HuBERT: leave out config_class, or give SSLHubertConfig.")
    auto = "AutoModelForPreTraining" if pretraining else "AutoModel" if model.aux is None else "AutoModelForCTC"
    our_class = model_class(SSLHubertConfig if pretraining else config_class or SSLWav2Vec2Config, auto)
    encoder = model.wav2vec2 if pretraining else model

    fields = _architecture(encoder)
    if pretraining:
        num_units, unit_embedding_dim = model.logit_generator.label_embeddings.shape
        scale = 1.0 if model.feature_grad_mult is None else model.feature_grad_mult
        fields |= dict(num_units=[num_units], unit_embedding_dim=unit_embedding_dim, feature_gradient_scale=scale)
    names = _torchaudio_names(our_class, pretraining)
    ours = our_class(our_class.config_class(**fields))
    return _load(ours, {_rename(name, names): weight for name, weight in model.state_dict().items()}, model)


def _convert(model: PreTrainedModel, target_class: type[PreTrainedModel]) -> PreTrainedModel:
    """The same weights and configuration in another class."""
    config = _shared_config(model.config, target_class.config_class)
    return _load(target_class(config), model.state_dict(), model)


def _shared_config(config: PreTrainedConfig, target_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """The fields that both kinds of configuration have; what only the target has keeps its default."""
    names = {field.name for field in dataclasses.fields(target_class)} - _FILE_FIELDS
    fields = {name: getattr(config, name) for name in names if hasattr(config, name)}
    return target_class(**fields, attn_implementation=config._attn_implementation)


def _load(target: PreTrainedModel, weights: dict[str, Tensor], source: nn.Module) -> PreTrainedModel:
    """`copy_by_name`, with device, precision and mode of the source."""
    like = next(source.parameters())
    target.to(device=like.device, dtype=like.dtype).train(source.training)
    return copy_by_name(target, weights, type(source).__name__)


def copy_by_name(target: PreTrainedModel, weights: dict[str, Tensor], source: str) -> PreTrainedModel:
    """Copies weights by name; only the mask embedding may be missing (stock has none where it would never mask).

    Args:
        source: What the weights come from, for the error.
    Raises:
        ValueError: If either side has a weight that the other lacks.
    """
    expected = target.state_dict()
    foreign = sorted(weights.keys() - expected.keys())
    missing = sorted(expected.keys() - weights.keys())
    strange = [name for name in foreign + missing if not name.endswith("masked_spec_embed")]
    if strange:
        raise ValueError(
            f"{source} and {type(target).__name__} differ in {len(strange)} weights ({strange[0]}): "
            "adapters, WavLM's attention and batch norm in the positional conv have no counterpart in this package."
        )
    target.load_state_dict(weights, strict=False)
    return target


def _our_class(stock_name: str) -> type[SSLSpeechPreTrainedModel]:
    ours = CLASSES.get(f"SSL{stock_name}")
    if ours not in STOCK_CLASSES:
        expected = _names(STOCK_CLASSES.values())
        raise ValueError(f"{stock_name} has no counterpart in this package: expected one of {expected}.")
    return ours


def _architecture(encoder: nn.Module) -> dict[str, object]:
    """The configuration fields that a torchaudio encoder was built from, read off its modules."""
    conv_layers, transformer = encoder.feature_extractor.conv_layers, encoder.encoder.transformer
    layer, position = transformer.layers[0], transformer.pos_conv_embed.conv
    fields = dict(
        feat_extract_norm="group" if isinstance(conv_layers[0].layer_norm, nn.GroupNorm) else "layer",
        conv_dim=[layer.conv.out_channels for layer in conv_layers],
        conv_kernel=[layer.conv.kernel_size[0] for layer in conv_layers],
        conv_stride=[layer.conv.stride[0] for layer in conv_layers],
        conv_bias=conv_layers[0].conv.bias is not None,
        hidden_size=position.in_channels,
        num_hidden_layers=len(transformer.layers),
        num_attention_heads=layer.attention.num_heads,
        intermediate_size=layer.feed_forward.intermediate_dense.out_features,
        num_conv_pos_embeddings=position.kernel_size[0],
        num_conv_pos_embedding_groups=position.groups,
        do_stable_layer_norm=layer.layer_norm_first,
        feat_proj_dropout=encoder.encoder.feature_projection.dropout.p,
        attention_dropout=layer.attention.dropout,
        activation_dropout=layer.feed_forward.intermediate_dropout.p,
        hidden_dropout=layer.dropout.p,
        layerdrop=transformer.layer_drop,
    )
    return fields if encoder.aux is None else fields | dict(vocab_size=encoder.aux.out_features)


def _torchaudio_names(our_class: type[SSLSpeechPreTrainedModel], pretraining: bool) -> dict[str, str]:
    """Prefixes of torchaudio's names and of ours, for one of our classes."""
    if our_class in (SSLWav2Vec2Model, SSLHubertModel):
        return _ENCODER_NAMES
    theirs, ours = "wav2vec2." if pretraining else "", f"{our_class.base_model_prefix}."
    encoder = {theirs + old: ours + new for old, new in _ENCODER_NAMES.items()}
    return encoder | (_PRETRAINING_NAMES if pretraining else _CTC_NAMES)


def _rename(name: str, prefixes: dict[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _names(classes: Iterable[type]) -> str:
    return ", ".join(each.__name__ for each in classes)
