"""One encoder configuration, one subclass per objective, and the published sizes as presets."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_ssl_speech.models.frames import ConvLayer, hop_samples, window_samples
from hf_ssl_speech.models.installing import auto_module

# `from_pretrained(..., trust_remote_code=True)` imports this file from the checkpoint's folder, so that code which
# never imports the package gets our classes, or is told how to install it.
AUTO_MODULE = "modeling_hf_ssl_speech"

# Norms before the layers: with the papers' order, a model this small learns nothing in its first thousand updates.
_TINY = dict(
    hidden_size=192,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=768,
    conv_dim=(96,) * 7,
    num_conv_pos_embeddings=64,
    num_conv_pos_embedding_groups=8,
    do_stable_layer_norm=True,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    feat_proj_dropout=0.0,
    layerdrop=0.0,
    classifier_proj_size=128,
)
# As tiny, but its first filters are not learned: mel bands every 10 ms, of which one conv makes frames of 20 ms.
_TINY_MEL = _TINY | dict(
    feat_extract_filters="mel",
    conv_dim=(80, 192),
    conv_kernel=(240, 2),
    conv_stride=(160, 2),
)
_SMALL = dict(
    hidden_size=384,
    num_hidden_layers=6,
    num_attention_heads=6,
    intermediate_size=1536,
    conv_dim=(256,) * 7,
    num_conv_pos_embedding_groups=12,
)
_LARGE = dict(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    feat_extract_norm="layer",
    do_stable_layer_norm=True,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    feat_proj_dropout=0.0,
    layerdrop=0.0,
    feature_gradient_scale=1.0,
)


# Lowest and highest sensible values; published models lie far inside. Values beyond them are mistakes or damage, and
# could take all memory before any other check fails.
_FIELDS_WITHIN = {
    (0.0, 1.0): "hidden_dropout activation_dropout attention_dropout feat_proj_dropout final_dropout "
    "feat_quantizer_dropout layerdrop layer_norm_eps gumbel_temperature_decay",
    (1, 16_384): "hidden_size num_conv_pos_embedding_groups mask_feature_length classifier_proj_size codevector_dim "
    "proj_codevector_dim num_codevectors_per_group unit_embedding_dim teacher_size",
    (0, 16_384): "mask_feature_min_masks",
    (0, 200): "num_hidden_layers",
    (1, 1_024): "num_attention_heads",
    (1, 65_536): "intermediate_size",
    (0.0, 10.0): "initializer_range",
    (1, 8_192): "conv_dim",
    (1, 1_000): "conv_stride conv_kernel",
    (1, 4_096): "num_conv_pos_embeddings",
    (0.0, 100.0): "mask_time_prob mask_feature_prob",  # budgets of spans that overlap: more than 1 can be meant
    (1, 100_000): "mask_time_length num_negatives",
    (0, 100_000): "mask_time_min_masks",
    (1, 200_000): "vocab_size",
    (1, 32): "num_codevector_groups",
    (1, 1_000_000): "num_units",
    (0.0, 1e6): "feature_gradient_scale feature_penalty_weight diversity_loss_weight unmasked_loss_weight "
    "gumbel_temperature_start cosine_loss_weight",
    (1e-6, 1e6): "contrastive_logits_temperature unit_logits_temperature gumbel_temperature_end",
}
_LIMITS = {name: limits for limits, names in _FIELDS_WITHIN.items() for name in names.split()}


@strict
class SSLSpeechConfig(PreTrainedConfig):
    """What both objectives share: the conv encoder, the transformer and the span masks (fields named as in stock).

    The defaults are the BASE model of both papers in pretraining. `feature_gradient_scale` multiplies the gradient that
    enters the conv encoder; `feature_penalty_weight` weighs the mean square of its output. Masks are drawn by the
    collators, or in fine-tuning without one by the model with a head. With `ctc_layer_mix`, which stock does not have,
    a CTC head gets the weighted sum of all layers. Nor does stock have `feat_extract_filters`: with "mel", the first
    layer of the conv encoder is mel bands, as many as it has channels, instead of learned filters.

    `preset(size)` makes the configuration of a size, other fields given by name:

    - `tiny`: 4 layers of width 192, norms before the layers: learns on a CPU in minutes.
    - `tiny-mel`: the same on 80 mel bands and one conv layer, instead of seven conv layers.
    - `small`: 6 layers of width 384: for one GPU.
    - `base`: 12 layers of width 768, the BASE models of both papers.
    - `large`: 24 layers of width 1024, layer norms in the conv encoder and before the layers: LARGE of both papers.
    """

    stock_model_type: ClassVar[str]
    # Sums over a batch of any length, which a plain Trainer could not put side by side with those of others.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["statistics"]
    method: ClassVar[str]  # what its paper calls it
    hides_frames: ClassVar[bool] = True  # whether its pretraining predicts what the encoder does not see

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout: float | int = 0.1
    activation_dropout: float | int = 0.0
    attention_dropout: float | int = 0.1
    feat_proj_dropout: float | int = 0.1
    final_dropout: float | int = 0.1
    layerdrop: float | int = 0.05
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    feat_extract_filters: Literal["learned", "mel"] = "learned"
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    conv_dim: list[int] | tuple[int, ...] = (512,) * 7
    conv_stride: list[int] | tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: list[int] | tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    do_stable_layer_norm: bool = False
    apply_spec_augment: bool = True
    mask_time_prob: float | int = 0.65
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float | int = 0.0
    mask_feature_length: int = 64
    mask_feature_min_masks: int = 0
    feature_gradient_scale: float | int = 0.1
    feature_penalty_weight: float | int = 10.0
    vocab_size: int | None = 32
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    classifier_pooling: Literal["mean", "attentive"] = "mean"
    ctc_layer_mix: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    @classmethod
    def preset(cls, size: str, **overrides) -> SSLSpeechConfig:
        """The configuration of a size, one of `presets()`.

        Raises:
            ValueError: If there is no such size, or no such field.
        """
        if size not in cls.presets():
            raise ValueError(f"There is no preset {size!r}: choose one of {', '.join(cls.presets())}.")
        cls.check_names(overrides)
        return cls(**{**cls.presets()[size], **overrides})

    @classmethod
    def check_names(cls, names: Iterable[str]):
        """Raises a ValueError if a name is no field of this configuration; the closest field is named."""
        for name in names:
            if name not in cls.__dataclass_fields__ and not hasattr(cls, name):
                closest = difflib.get_close_matches(name, cls.__dataclass_fields__, n=1)
                hint = f"Did you mean {closest[0]}?" if closest else "Check the spelling."
                raise ValueError(f"{cls.__name__} has no field {name}. {hint}")

    @classmethod
    def presets(cls) -> dict[str, dict[str, Any]]:
        """Fields of each size that differ from BASE."""
        return {"tiny": _TINY, "tiny-mel": _TINY_MEL, "small": _SMALL, "base": {}, "large": _LARGE}

    @property
    def conv_layers(self) -> list[ConvLayer]:
        """Kernel and stride of each conv layer, in samples of the layer below."""
        return [ConvLayer(*layer) for layer in zip(self.conv_kernel, self.conv_stride)]

    @property
    def num_feat_extract_layers(self) -> int:
        """Number of conv layers, as stock has it."""
        return len(self.conv_dim)

    @num_feat_extract_layers.setter
    def num_feat_extract_layers(self, number: int):
        if number != len(self.conv_dim):
            raise ValueError(f"num_feat_extract_layers is {number}, but conv_dim names {len(self.conv_dim)} layers.")

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Audio samples per frame; the ASR pipeline turns frames into seconds with it."""
        return hop_samples(self.conv_layers)

    @property
    def window_samples(self) -> int:
        """Audio samples in the window of one frame, and so the shortest audio the encoder takes."""
        return window_samples(self.conv_layers)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads a `config.json`, ours or that of a stock checkpoint of the same objective.

        Raises:
            ValueError: If it is of another objective, or a stock one with modules that this encoder does not have.
        """
        fields, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if fields.get("model_type", cls.model_type) not in (cls.model_type, cls.stock_model_type):
            raise ValueError(
                f"{pretrained_model_name_or_path} is of type {fields['model_type']!r}, but {cls.__name__} reads "
                f"{cls.model_type!r} and {cls.stock_model_type!r}: load it with its own class or with AutoModel."
            )
        if fields.get("model_type") == cls.stock_model_type:
            foreign = [name for name in ("add_adapter", "adapter_attn_dim", "conv_pos_batch_norm") if fields.get(name)]
            if foreign:
                raise ValueError(
                    f"{pretrained_model_name_or_path} sets {', '.join(foreign)}; {cls.__name__} has no such modules. "
                    "Load it with transformers' own classes."
                )
            fields = {**fields, "model_type": cls.model_type}
        # It says how stock trains a checkpoint: see `validate_ctc_loss_reduction`.
        fields = {name: value for name, value in fields.items() if name != "ctc_loss_reduction"}
        return fields, kwargs

    def validate_limits(self):
        """Part of the strict validation that runs on every construction: senseless values are refused."""
        for name, (lowest, highest) in _LIMITS.items():
            found = getattr(self, name, None)
            for value in found if isinstance(found, list | tuple) else [found]:
                if value is not None and not lowest <= value <= highest:
                    raise ValueError(f"{name} is {value}; expected {lowest:,} to {highest:,}.")

    def validate_ctc_loss_reduction(self):
        """Part of the strict validation that runs on every construction: stock's choice does not exist here."""
        if getattr(self, "ctc_loss_reduction", None) is not None:
            raise ValueError(
                f"ctc_loss_reduction is {self.ctc_loss_reduction!r}, but the CTC models of this package always divide "
                "the summed loss once by the labels of the whole update: leave it out."
            )

    def validate_architecture(self):
        """Part of the strict validation that runs on every construction."""
        if not len(self.conv_dim) == len(self.conv_stride) == len(self.conv_kernel) > 0:
            raise ValueError(
                "conv_dim, conv_stride and conv_kernel need one entry per conv layer, but have "
                f"{len(self.conv_dim)}, {len(self.conv_stride)} and {len(self.conv_kernel)}."
            )
        if self.feat_extract_filters not in ("learned", "mel"):
            raise ValueError(f"feat_extract_filters is {self.feat_extract_filters!r}; expected 'learned' or 'mel'.")
        if self.feat_extract_filters == "mel" and len(self.conv_dim) < 2:
            raise ValueError("feat_extract_filters 'mel' needs a conv layer after the bands: name at least two layers.")
        if self.feat_extract_norm not in ("group", "layer"):
            raise ValueError(f"feat_extract_norm is {self.feat_extract_norm!r}; expected 'group' or 'layer'.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not split into {self.num_attention_heads} heads.")
        if self.hidden_size % self.num_conv_pos_embedding_groups:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not split into {self.num_conv_pos_embedding_groups} groups of "
                "the positional conv (num_conv_pos_embedding_groups)."
            )

    def __post_init__(self, **kwargs):
        """Registers the Auto classes, which a user of this configuration may need next."""
        importlib.import_module("hf_ssl_speech.models.classes")
        super().__post_init__(**kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """Writes `config.json` and the one-line module its `auto_map` names."""
        super().save_pretrained(save_directory, **kwargs)
        Path(save_directory, f"{AUTO_MODULE}.py").write_text(auto_module())

    def to_dict(self) -> dict[str, Any]:
        """The fields, with the `auto_map` through which Auto classes find ours in a folder or on the Hub."""
        return {**super().to_dict(), "auto_map": {k: f"{AUTO_MODULE}.{v}" for k, v in self.auto_classes().items()}}

    @classmethod
    def auto_classes(cls) -> dict[str, str]:
        """Auto class -> our class, of this objective."""
        name = cls.__name__.removesuffix("Config")
        heads = {
            "AutoModel": "Model",
            "AutoModelForPreTraining": "ForPreTraining",
            "AutoModelForCTC": "ForCTC",
            "AutoModelForAudioClassification": "ForSequenceClassification",
        }
        return {"AutoConfig": cls.__name__, **{auto: name + head for auto, head in heads.items()}}


@strict
class SSLWav2Vec2Config(SSLSpeechConfig):
    """wav2vec 2.0 (Baevski et al. 2020): contrastive prediction of quantised frames.

    Gumbel temperature at update `n` is `max(start * decay ** n, end)`. Presets, as `SSLWav2Vec2Config.preset("tiny")`:
    `base` and `large` have two groups of 320 codebook entries (`large` ends at temperature 0.1 instead of 0.5, without
    a feature penalty), `small` the same objective with a smaller encoder; `tiny` and `tiny-mel` have 64 entries, spans
    of 5 frames and a feature penalty of 0.1, so that they learn in a few hundred updates.
    """

    model_type = "ssl-wav2vec2"
    stock_model_type = "wav2vec2"
    method = "wav2vec 2.0"

    feat_quantizer_dropout: float | int = 0.1
    num_codevectors_per_group: int = 320
    num_codevector_groups: int = 2
    codevector_dim: int = 256
    proj_codevector_dim: int = 256
    num_negatives: int = 100
    contrastive_logits_temperature: float = 0.1
    diversity_loss_weight: float | int = 0.1
    gumbel_temperature_start: float | int = 2.0
    gumbel_temperature_end: float | int = 0.5
    gumbel_temperature_decay: float = 0.999995

    @classmethod
    def presets(cls) -> dict[str, dict[str, Any]]:
        """Fields of each size that differ from BASE (section 4.2)."""
        large = dict(
            conv_bias=True,
            feat_quantizer_dropout=0.0,
            codevector_dim=768,
            proj_codevector_dim=768,
            feature_penalty_weight=0.0,
            gumbel_temperature_end=0.1,
        )
        # With shorter spans, fewer entries and less feature penalty it beats chance after a few hundred updates.
        tiny = dict(
            mask_time_length=5,
            num_codevectors_per_group=64,
            codevector_dim=128,
            proj_codevector_dim=128,
            feat_quantizer_dropout=0.0,
            feature_penalty_weight=0.1,
        )
        inherited = super().presets()
        return {
            **inherited,
            "tiny": inherited["tiny"] | tiny,
            "tiny-mel": inherited["tiny-mel"] | tiny,
            "large": inherited["large"] | large,
        }

    def validate_codebook(self):
        """Part of the strict validation that runs on every construction."""
        if self.codevector_dim % self.num_codevector_groups:
            raise ValueError(
                f"codevector_dim {self.codevector_dim} does not split into {self.num_codevector_groups} groups."
            )


@strict
class SSLHubertConfig(SSLSpeechConfig):
    """HuBERT (Hsu et al. 2021): prediction of k-means units of masked frames, by one projection per unit set.

    Presets, as `SSLHubertConfig.preset("tiny", num_units=[100])`: `base` and `large` are the paper's, `small` has a
    smaller encoder; `tiny` and `tiny-mel` have spans of 5 frames and hold the conv encoder back neither by a penalty
    (0.05) nor by a small gradient. `num_units` names the size of each unit set, 100 as in the paper's first iteration.
    """

    model_type = "ssl-hubert"
    stock_model_type = "hubert"
    method = "HuBERT"

    mask_time_prob: float | int = 0.80
    feat_proj_layer_norm: bool = True
    num_units: list[int] | tuple[int, ...] = (100,)
    unit_embedding_dim: int = 256
    unit_logits_temperature: float = 0.1
    unmasked_loss_weight: float | int = 0.0

    @classmethod
    def presets(cls) -> dict[str, dict[str, Any]]:
        """Fields of each size that differ from BASE (table 1 and section IV-C)."""
        inherited = super().presets()
        # Shorter spans, and a conv encoder that is held back neither by a penalty nor by a small gradient: a thousand
        # updates are few.
        tiny = dict(
            mask_time_length=5,
            mask_time_prob=0.65,
            unit_embedding_dim=128,
            feature_penalty_weight=0.05,
            feature_gradient_scale=1.0,
        )
        return {
            **inherited,
            "tiny": inherited["tiny"] | tiny,
            "tiny-mel": inherited["tiny-mel"] | tiny,
            "large": inherited["large"] | dict(unit_embedding_dim=768),
        }


@strict
class SSLDistilHubertConfig(SSLHubertConfig):
    """DistilHuBERT (Chang et al. 2022): a student with few layers predicts several layers of a teacher.

    Saved as `ssl-hubert`, which the student is without its heads. `teacher_layers` are counted from 1; `teacher_size`
    is the width of the teacher's frames, `teacher_hash` tells its weights. The defaults are the paper's student of
    HuBERT BASE.
    """

    method = "DistilHuBERT"
    hides_frames = False

    num_hidden_layers: int = 2
    layerdrop: float | int = 0.0
    feature_penalty_weight: float | int = 0.0
    teacher_layers: list[int] | tuple[int, ...] = (4, 8, 12)
    teacher_size: int = 768
    teacher_hash: str | None = None
    cosine_loss_weight: float | int = 1.0

    @classmethod
    def auto_classes(cls) -> dict[str, str]:
        """Those of HuBERT: whoever loads the student has no use for its heads."""
        return SSLHubertConfig.auto_classes()
