"""Reads fairseq's checkpoints of wav2vec 2.0 and HuBERT, without fairseq and without running code from the file.

Such files are pickles that also hold objects of fairseq, omegaconf and argparse. torch reads them with `weights_only`,
and each class that a file names is replaced by one that stands still: it keeps what the file says of an object, and
nothing of the file's choosing is imported or called.
"""

from __future__ import annotations

import ast
import json
import os
import pickletools
import re
import tempfile
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from hf_ssl_speech.hub.exchange import copy_by_name
from hf_ssl_speech.models.configuration import SSLHubertConfig, SSLWav2Vec2Config
from hf_ssl_speech.models.encoder import SSLHubertModel, SSLSpeechPreTrainedModel, SSLWav2Vec2Model
from hf_ssl_speech.models.heads import SSLHubertForCTC, SSLWav2Vec2ForCTC
from hf_ssl_speech.models.pretraining import SSLHubertForPreTraining, SSLWav2Vec2ForPreTraining

CLASSES = {
    "wav2vec2": (SSLWav2Vec2Config, SSLWav2Vec2Model, SSLWav2Vec2ForPreTraining, SSLWav2Vec2ForCTC),
    "hubert": (SSLHubertConfig, SSLHubertModel, SSLHubertForPreTraining, SSLHubertForCTC),
}
# Names there, as patterns, and what they are called here; of encoders, and of the heads that stand outside of them.
ENCODER_NAMES = {
    r"mask_emb": "masked_spec_embed",
    r"layer_norm\.": "feature_projection.layer_norm.",
    r"post_extract_proj\.": "feature_projection.projection.",
    r"feature_extractor\.conv_layers\.(\d+)\.0\.": r"feature_extractor.conv_layers.\1.conv.",
    r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?": r"feature_extractor.conv_layers.\1.layer_norm.",
    r"encoder\.pos_conv\.0\.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    r"encoder\.pos_conv\.0\.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    r"encoder\.pos_conv\.0\.": "encoder.pos_conv_embed.conv.",
    r"encoder\.layers\.(\d+)\.self_attn\.": r"encoder.layers.\1.attention.",
    r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.": r"encoder.layers.\1.layer_norm.",
    r"encoder\.layers\.(\d+)\.fc1\.": r"encoder.layers.\1.feed_forward.intermediate_dense.",
    r"encoder\.layers\.(\d+)\.fc2\.": r"encoder.layers.\1.feed_forward.output_dense.",
    r"encoder\.(?=layers\.\d+\.final_layer_norm\.|layer_norm\.)": "encoder.",
}
PRETRAINING_NAMES = {
    "wav2vec2": {
        r"quantizer\.vars": "quantizer.codevectors",
        r"quantizer\.(?=weight_proj\.)": "quantizer.",
        r"project_q\.": "project_q.",
        r"final_proj\.": "project_hid.",
    },
    "hubert": {r"final_proj\.": "to_unit_space.0.", r"label_embs_concat": "unit_embeddings.0.weight"},
}
CTC_PREFIX, CTC_HEAD = "w2v_encoder.w2v_model.", "w2v_encoder.proj."
CONV_LAYERS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"  # where a file names none
SPECIAL_SYMBOLS = 4  # <s>, <pad>, </s> and <unk> stand before the units in fairseq's dictionaries; no frame has them


class StandIn:
    """An object of a class that was not loaded: what the file says of it."""

    def __new__(cls, *arguments: Any) -> StandIn:
        new = super().__new__(cls)
        new.arguments, new.state = arguments, None
        return new

    def __init__(self, *arguments: Any):
        pass

    def __setstate__(self, state: Any):
        self.state = state


def _dict(*_: Any) -> dict:
    """In place of `defaultdict`: torch fills nothing but plain dictionaries."""
    return {}


def from_fairseq(path: str | os.PathLike) -> SSLSpeechPreTrainedModel:
    """A fairseq checkpoint (`.pt`) of wav2vec 2.0 or HuBERT as ours: pretrained, or fine-tuned with CTC.

    Pretrained ones become `SSLWav2Vec2ForPreTraining` or `SSLHubertForPreTraining` with their head, or an encoder where
    the file has none; fine-tuned ones the class for CTC, whose blank is token 0 as in fairseq. HuBERT's unit `n` is row
    `n + 4` of fairseq's label embeddings. Whether waveforms are normalised is not part of the model: it was if the
    file's `task.normalize` is true, as for LARGE models.

    Raises:
        ValueError: If the file is no such checkpoint, asks for what is never loaded, or has modules that ours lack.
    """
    checkpoint = read_checkpoint(path)
    settings, weights = plain(checkpoint.get("cfg")) or plain(checkpoint.get("args")), checkpoint["model"]
    if not isinstance(settings, dict):
        raise ValueError(f"{path} has weights but no settings (`cfg` or `args`): the number of heads is unknown.")
    model_settings = settings.get("model") if isinstance(settings.get("model"), dict) else settings
    name = str(model_settings.get("_name") or model_settings.get("arch") or "")
    objective = "hubert" if name.startswith("hubert") or "label_embs_concat" in weights else "wav2vec2"
    is_ctc = any(each.startswith(CTC_HEAD) for each in weights)
    if is_ctc:
        pretrained = model_settings.get("w2v_args") or {}
        model_settings = {**(pretrained.get("model") or pretrained), **_masks(model_settings)}
    encoder = {each.removeprefix(CTC_PREFIX): weight for each, weight in weights.items()}
    try:
        fields = _architecture(model_settings, encoder)
        fields |= _head(objective, model_settings, encoder, is_ctc)
    except (KeyError, SyntaxError, TypeError) as error:
        raise ValueError(f"{path} is no wav2vec 2.0 or HuBERT checkpoint of fairseq ({error}).") from error
    config_class, encoder_class, pretraining_class, ctc_class = CLASSES[objective]
    has_head = "label_embs_concat" in encoder or "quantizer.vars" in encoder
    model_class = ctc_class if is_ctc else pretraining_class if has_head else encoder_class
    ours = model_class(config_class(**fields))
    return copy_by_name(ours, _renamed(weights, objective, model_class), str(path)).eval()


def fairseq_processor(dictionary: str | os.PathLike, normalize: bool) -> Wav2Vec2Processor:
    """The processor of a fine-tuned checkpoint, from fairseq's dictionary of its targets (`dict.ltr.txt`).

    Args:
        dictionary: A token and a count in each line, as the model's outputs follow the four special ones.
        normalize: Whether the model takes normalised waveforms: `task.normalize` there, true of LARGE models.
    Raises:
        ValueError: If a line is not of that form.
    """
    lines = Path(dictionary).read_text(encoding="utf-8").splitlines()
    strange = [line for line in lines if not re.fullmatch(r"\S+ \d+( #fairseq:overwrite)?", line)]
    if strange or not lines:
        raise ValueError(f"{dictionary} is no dictionary of fairseq: expected a token and a count, not {strange[:1]}.")
    # The blank is output 0, which fairseq calls <s> and transformers the pad token.
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *(line.split(" ")[0] for line in lines)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "vocab.json")
        file.write_text(json.dumps({token: number for number, token in enumerate(tokens)}), encoding="utf-8")
        tokenizer = Wav2Vec2CTCTokenizer(str(file))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """What a checkpoint holds, with a `StandIn` for each object that is neither a tensor nor plain data.

    Raises:
        ValueError: If it can't be read in this way, or holds no weights.
    """
    try:
        names = set(named_globals(path))
        stand_ins = [(_dict if name == "collections.defaultdict" else StandIn, name) for name in names]
        with torch.serialization.safe_globals(stand_ins):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, ValueError, EOFError, IndexError, KeyError) as error:
        # Of torch's message, the line on the file alone: others advise to unpickle it after all.
        told = [line for line in str(error).splitlines() if "GLOBAL" in line]
        reason = told[0].rpartition("error: ")[-1] if told else "it is damaged, or not written by torch.save."
        raise ValueError(f"{path} can't be read as weights and plain data: {reason}") from error
    weights = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not weights or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise ValueError(f"{path} is no checkpoint of fairseq: it has no weights under `model`.")
    return checkpoint


def named_globals(path: str | os.PathLike) -> list[str]:
    """Every class and function that a file of `torch.save` names; the file is looked at, not unpickled."""
    found = []
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next((each for each in archive.namelist() if each.endswith("data.pkl")), None)
            pickles = [archive.read(name)] if name else []
        operations = (each for data in pickles for each in pickletools.genops(data))
    else:  # before torch 1.6: five pickles one after the other
        operations = _operations_of_old_files(path)
    for operation, argument, _ in operations:
        if operation.name == "GLOBAL":
            asked = tuple(argument.split(" ", 1))
            # Pickles of this age may hold names of Python 2, and torch looks for some under today's name.
            today = NAME_MAPPING.get(asked, (IMPORT_MAPPING.get(asked[0], asked[0]), asked[1]))
            found += [".".join(asked), ".".join(today)]
    return found


def _operations_of_old_files(path):
    with open(path, "rb") as file:
        for _ in range(5):
            yield from pickletools.genops(file)


def plain(value: Any) -> Any:
    """Settings as plain data: omegaconf's nodes by their content, namespaces by their attributes, enums by their value.

    What tells nothing of itself becomes None.
    """
    if isinstance(value, StandIn):
        state = value.state[0] if isinstance(value.state, tuple) else value.state
        if not isinstance(state, dict):
            return plain(value.arguments[0]) if len(value.arguments) == 1 else None
        for content in ("_content", "_val"):
            if content in state:
                return plain(state[content])
        return plain(state)
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items() if isinstance(name, str)}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool) else None


def _architecture(settings: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Any]:
    """The encoder's configuration, from its weights where they tell it."""
    conv_layers = conv_layers_of(settings.get("conv_feature_layers") or CONV_LAYERS)
    positions = weights["encoder.pos_conv.0.weight_v"]
    layers = {found[1] for found in map(re.compile(r"encoder\.layers\.(\d+)\.").match, weights) if found}
    fields = dict(
        conv_dim=[width for width, _, _ in conv_layers],
        conv_kernel=[kernel for _, kernel, _ in conv_layers],
        conv_stride=[stride for _, _, stride in conv_layers],
        conv_bias="feature_extractor.conv_layers.0.0.bias" in weights,
        feat_extract_norm="layer" if "feature_extractor.conv_layers.0.2.1.weight" in weights else "group",
        hidden_size=positions.shape[0],
        num_hidden_layers=len(layers),
        num_attention_heads=settings.get("encoder_attention_heads") or 12,
        intermediate_size=len(weights["encoder.layers.0.fc1.bias"]),
        num_conv_pos_embeddings=positions.shape[2],
        num_conv_pos_embedding_groups=positions.shape[0] // positions.shape[1],
        do_stable_layer_norm=bool(settings.get("layer_norm_first")),
        hidden_act=settings.get("activation_fn") or "gelu",
    )
    return fields | _given(
        settings,
        dropout="hidden_dropout",
        attention_dropout="attention_dropout",
        activation_dropout="activation_dropout",
        dropout_input="feat_proj_dropout",
        encoder_layerdrop="layerdrop",
        feature_grad_mult="feature_gradient_scale",
        mask_prob="mask_time_prob",
        mask_length="mask_time_length",
        mask_channel_prob="mask_feature_prob",
        mask_channel_length="mask_feature_length",
    )


def _head(objective: str, settings: dict[str, Any], weights: dict[str, Tensor], is_ctc: bool) -> dict[str, Any]:
    """The configuration of the head that the weights have."""
    if is_ctc:
        return dict(vocab_size=len(weights[f"{CTC_HEAD}weight"]), pad_token_id=0, bos_token_id=1, eos_token_id=2)
    if "label_embs_concat" in weights:
        units, width = weights["label_embs_concat"].shape
        if len(weights["final_proj.weight"]) != width:
            raise ValueError("The checkpoint predicts several sets of units: only one can be taken over.")
        return dict(num_units=[units - SPECIAL_SYMBOLS], unit_embedding_dim=width) | _given(
            settings, logit_temp="unit_logits_temperature"
        )
    if objective == "hubert" or "quantizer.vars" not in weights:
        return {}
    groups = settings.get("latent_groups") or 2
    temperatures = settings.get("latent_temp")
    names = ("gumbel_temperature_start", "gumbel_temperature_end", "gumbel_temperature_decay")
    return dict(
        num_codevector_groups=groups,
        num_codevectors_per_group=weights["quantizer.vars"].shape[1] // groups,
        codevector_dim=weights["quantizer.vars"].shape[2] * groups,
        proj_codevector_dim=len(weights["project_q.weight"]),
        **(dict(zip(names, temperatures)) if isinstance(temperatures, list) else {}),
        **_given(
            settings,
            dropout_features="feat_quantizer_dropout",
            num_negatives="num_negatives",
            logit_temp="contrastive_logits_temperature",
        ),
    )


def _given(settings: dict[str, Any], **names: str) -> dict[str, Any]:
    """Settings that are there as numbers, under their names here."""
    found = {ours: settings.get(theirs) for theirs, ours in names.items()}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _masks(settings: dict[str, Any]) -> dict[str, Any]:
    """What fine-tuning sets anew for the encoder that it starts from."""
    kept = ("mask_", "dropout", "activation_dropout", "attention_dropout", "feature_grad_mult")
    found = {name: value for name, value in settings.items() if name.startswith(kept)}
    return found | ({"encoder_layerdrop": settings["layerdrop"]} if "layerdrop" in settings else {})


def conv_layers_of(text: str) -> list[tuple[int, int, int]]:
    """Width, kernel and stride of each layer of an expression such as `[(512, 10, 5)] + [(512, 3, 2)] * 4`.

    Raises:
        ValueError: If it is anything but lists of numbers, added up and repeated.
    """

    def value(node: ast.AST) -> Any:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return value(node.left) + value(node.right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            left, right = value(node.left), value(node.right)
            if isinstance(right, int) and not isinstance(left, int) and right <= 100:
                return left * right
        return ast.literal_eval(node)

    layers = value(ast.parse(text.strip(), mode="eval").body)
    if not all(isinstance(layer, tuple) and len(layer) == 3 for layer in layers):
        raise ValueError(f"conv_feature_layers is {text!r}: expected (width, kernel, stride) of each layer.")
    return layers


def _renamed(
    weights: dict[str, Tensor], objective: str, model_class: type[SSLSpeechPreTrainedModel]
) -> dict[str, Tensor]:
    """All weights under the names of one of our classes; of a head that it does not have, none."""
    is_encoder = model_class in (SSLWav2Vec2Model, SSLHubertModel)
    prefix = "" if is_encoder else f"{model_class.base_model_prefix}."
    heads = PRETRAINING_NAMES[objective]
    found = {}
    for name, weight in weights.items():
        name = name.removeprefix(CTC_PREFIX)
        if any(re.match(pattern, name) for pattern in heads):
            if model_class in (SSLWav2Vec2ForPreTraining, SSLHubertForPreTraining):
                weight = weight[SPECIAL_SYMBOLS:] if name == "label_embs_concat" else weight
                found[_rename(name, heads)] = weight
        elif name.startswith(CTC_HEAD):
            found[f"lm_head.{name.removeprefix(CTC_HEAD)}"] = weight
        else:
            found[prefix + _rename(name, ENCODER_NAMES)] = weight
    return found


def _rename(name: str, patterns: dict[str, str]) -> str:
    for pattern, replacement in patterns.items():
        found = re.match(pattern, name)
        if found:
            return found.expand(replacement) + name[found.end() :]
    return name
