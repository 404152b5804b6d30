"""The papers' settings, and where a recorded run departs from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_ssl_speech.models.classes import config_class_of
from hf_ssl_speech.models.configuration import SSLDistilHubertConfig
from hf_ssl_speech.records import Record, as_record
from hf_ssl_speech.training.schedules import updates_of_share

# The settings that are compared, in the order of the report, with their names there.
SETTINGS = {
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "num_attention_heads": "attention heads",
    "intermediate_size": "feed-forward width",
    "do_stable_layer_norm": "norms before the layers",
    "num_conv_pos_embeddings": "kernel of the positional conv, frames",
    "num_conv_pos_embedding_groups": "groups of the positional conv",
    "feat_extract_filters": "filters of the first conv layer",
    "conv_dim": "channels of the conv encoder",
    "conv_kernel": "kernels of the conv encoder",
    "conv_stride": "strides of the conv encoder",
    "conv_bias": "bias in the conv encoder",
    "feat_extract_norm": "norm in the conv encoder",
    "hidden_dropout": "dropout",
    "attention_dropout": "dropout of attention",
    "activation_dropout": "dropout of activations",
    "feat_proj_dropout": "dropout on the transformer's input",
    "feat_quantizer_dropout": "dropout on the quantiser's input",
    "final_dropout": "dropout before the head",
    "layerdrop": "layer drop",
    "mask_time_prob": "mask probability",
    "mask_time_length": "mask span, frames",
    "mask_time_min_masks": "fewest mask spans",
    "mask_feature_prob": "channel mask probability",
    "mask_feature_length": "channel mask span",
    "num_negatives": "negatives",
    "contrastive_logits_temperature": "temperature of the contrastive loss",
    "num_codevector_groups": "codebook groups",
    "num_codevectors_per_group": "codebook entries a group",
    "codevector_dim": "width of a codebook entry",
    "proj_codevector_dim": "width of the contrastive space",
    "diversity_loss_weight": "weight of the diversity loss",
    "gumbel_temperature_start": "Gumbel temperature at the start",
    "gumbel_temperature_end": "Gumbel temperature at the end",
    "gumbel_temperature_decay": "Gumbel temperature's decay per update",
    "num_units": "units to predict",
    "unit_embedding_dim": "width of the units' embeddings",
    "unit_logits_temperature": "temperature of the unit prediction",
    "unmasked_loss_weight": "weight of unmasked frames",
    "feature_penalty_weight": "weight of the feature penalty",
    "feature_gradient_scale": "gradient scale into the conv encoder",
    "max_steps": "updates",
    "seconds_per_update": "seconds of audio per update, at most",
    "min_seconds": "shortest audio, seconds",
    "max_seconds": "longest audio, seconds",
    "teacher_layers": "layers of the teacher",
    "cosine_loss_weight": "weight of the cosine loss",
    "learning_rate": "peak learning rate",
    "lr_scheduler_type": "learning-rate schedule",
    "warmup_steps": "warm-up updates",
    "tri_stage": "warm-up, hold and decay (up to 1: shares of all updates)",
    "initial_share": "first learning rate, as a share of the peak",
    "final_share": "last learning rate, as a share of the peak",
    "freeze_conv_encoder": "conv encoder frozen",
    "freeze_transformer_updates": "updates with the transformer frozen",
    "adam_beta1": "Adam's first beta",
    "adam_beta2": "Adam's second beta",
    "adam_epsilon": "Adam's epsilon",
    "weight_decay": "weight decay",
    "max_grad_norm": "gradient clipping (0: none)",
}

_PRETRAINING = dict(
    lr_scheduler_type="linear",
    warmup_steps=32_000,
    min_seconds=2,
    adam_beta1=0.9,
    adam_beta2=0.98,
    adam_epsilon=1e-6,
    weight_decay=0.01,
)
_WAV2VEC2 = {
    "base": dict(
        learning_rate=5e-4, max_steps=400_000, max_seconds=15.625, seconds_per_update=64 * 87.5, max_grad_norm=0
    ),
    # Learning rate, warm-up (8% of the updates) and updates are the paper's; the authors' configuration has 5e-3,
    # 32,000 and 1,000,000, and it is not known whether such a high learning rate works.
    "large": dict(
        learning_rate=3e-4,
        warmup_steps=48_000,
        max_steps=600_000,
        max_seconds=20,
        seconds_per_update=128 * 75,
        max_grad_norm=0,
    ),
}
_HUBERT = {
    "base, iteration 1": dict(num_units=(100,), learning_rate=5e-4, max_steps=250_000, max_grad_norm=10),
    "base, iteration 2": dict(num_units=(500,), learning_rate=5e-4, max_steps=400_000, max_grad_norm=10),
    "large": dict(num_units=(500,), learning_rate=1.5e-3, max_steps=400_000, max_grad_norm=1),
}
# Of the paper, section 3.1, and of the authors' configuration.
_STUDENT = dict(
    learning_rate=2e-4,
    max_steps=200_000,
    warmup_steps=14_000,
    max_seconds=15.625,
    seconds_per_update=24 * 15.625,
    weight_decay=1e-6,
    max_grad_norm=5,
)
_HUBERT_BATCHES = {"base": 32 * 87.5, "large": 128 * 56.25}

# CTC by hours of transcripts (wav2vec 2.0, appendix B; batches as in the authors' configurations).
_CTC_NAMES = (
    "max_steps",
    "learning_rate",
    "mask_time_prob",
    "mask_feature_prob",
    "layerdrop",
    "freeze_transformer_updates",
    "seconds_per_update",
)
_CTC = {
    ("ssl-wav2vec2", "base"): {
        1 / 6: (13_000, 5e-5, 0.65, 0.25, 0.1, 10_000, 2 * 4 * 200),
        1: (13_000, 5e-5, 0.65, 0.25, 0.1, 10_000, 2 * 4 * 200),
        10: (20_000, 5e-5, 0.65, 0.5, 0.05, 10_000, 2 * 4 * 200),
        100: (80_000, 3e-5, 0.65, 0.5, 0.1, 0, 2 * 4 * 200),
        960: (320_000, 1e-4, 0.5, 0.1, 0.1, 0, 8 * 200),
    },
    ("ssl-wav2vec2", "large"): {
        1 / 6: (13_000, 1e-4, 0.65, 0.25, 0.1, 10_000, 4 * 5 * 80),
        1: (13_000, 3e-4, 0.75, 0.25, 0.1, 10_000, 4 * 5 * 80),
        10: (20_000, 1e-4, 0.75, 0.25, 0.1, 10_000, 4 * 5 * 80),
        100: (80_000, 3e-5, 0.5, 0.5, 0.1, 10_000, 4 * 5 * 80),
        960: (320_000, 3e-5, 0.5, 0.25, 0.1, 10_000, 24 * 80),
    },
    ("ssl-hubert", "base"): {10: (25_000, 2e-5, 0.75, 0.5, 0.1, 10_000, 200)},
}
_CTC_SHARED = dict(
    hidden_dropout=0,
    attention_dropout=0,
    activation_dropout=0.1,
    feat_proj_dropout=0,
    final_dropout=0,
    mask_time_length=10,
    mask_time_min_masks=2,
    mask_feature_length=64,
    lr_scheduler_type="warmup_stable_decay",
    tri_stage=(0.1, 0.4, 0.5),
    initial_share=0.01,
    final_share=0.05,
    freeze_conv_encoder=True,
    adam_beta1=0.9,
    adam_beta2=0.98,
    adam_epsilon=1e-8,
    weight_decay=0,
    max_grad_norm=0,
)
# HuBERT's decay is cut off by the end of the run: its last learning rate is half the peak.
_CTC_OF_OBJECTIVE = {"ssl-wav2vec2": {}, "ssl-hubert": dict(tri_stage=(8_000, 0, 72_000))}


@dataclass(frozen=True)
class Comparison:
    """A run beside a published one.

    Attributes:
        published: Which published run, such as "wav2vec 2.0 BASE".
        departures: Name of each setting that differs, its value in the run and the published one, as text.
        as_published: Names of the settings that agree.
    """

    published: str
    departures: tuple[tuple[str, str, str], ...]
    as_published: tuple[str, ...]


def compare_with_paper(record: Mapping[str, Any]) -> Comparison | None:
    """Where a run's recorded configuration and recipe depart from the nearest published run's.

    LARGE is nearest to models of the same width, BASE to all others. Among HuBERT BASE's iterations it is the one with
    the same number of units (else the first), among CTC runs the one with the most similar hours of transcripts.

    Args:
        record: Content of a training's `run.json`.
    Returns:
        None if the record lacks the model's configuration, or if no such run was published.
    """
    record = as_record(record)
    name, published = _nearest_published(record)
    if published is None:
        return None
    run = {
        **record["identity"]["config"],
        **record["recipe"],
        "seconds_per_update": _seconds_per_update(record),
    }
    updates = max(run.get("max_steps") or 0, 0) or record["updates"] or 0
    for setting in ("warmup_steps", "freeze_transformer_updates"):  # published in updates
        if run.get(setting) is not None and updates:
            run[setting] = updates_of_share(run[setting], updates)
    departures, as_published = [], []
    for setting, label in SETTINGS.items():
        if setting not in published or run.get(setting) is None:
            continue
        if _equal(run[setting], published[setting]):
            as_published.append(label)
        else:
            departures.append((label, _as_text(run[setting]), _as_text(published[setting])))
    return Comparison(name, tuple(departures), tuple(as_published))


def published_seconds_per_update(record: Mapping[str, Any]) -> tuple[str, float] | None:
    """The nearest published run and the most audio that its updates held, in seconds.

    Args:
        record: As `compare_with_paper` takes it; identity, task and the facts of the training data are enough.
    Returns:
        None if nothing was published for models of this width.
    """
    record = as_record(record)
    name, published = _nearest_published(record)
    if published is None or record["identity"]["config"]["hidden_size"] != published["hidden_size"]:
        return None
    return name, published["seconds_per_update"]


def _nearest_published(record: Record) -> tuple[str, dict[str, Any] | None]:
    """Name and settings of the published run that a recorded one is nearest to; no settings if there is none."""
    config, model_type = (record["identity"].get(name) for name in ("config", "model_type"))
    if not config or config_class_of(model_type) is None:
        return "", None
    size = "large" if config["hidden_size"] >= config_class_of(model_type).preset("large").hidden_size else "base"
    if record["task"] == "ctc":
        return _published_ctc(model_type, size, record)
    return _published_pretraining(model_type, size, config)


def _published_pretraining(model_type: str, size: str, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    fields = config_class_of(model_type).preset(size).to_dict()
    del fields["final_dropout"]  # of heads for fine-tuning
    if config.get("teacher_layers"):
        fields = SSLDistilHubertConfig().to_dict() | _PRETRAINING | _STUDENT
        # Nothing is hidden, and the shortest audio was not published.
        told = {name: value for name, value in fields.items() if "mask" not in name and name != "min_seconds"}
        return SSLDistilHubertConfig.method, told
    name = f"{config_class_of(model_type).method} {size.upper()}"
    if model_type == "ssl-wav2vec2":
        return name, fields | _PRETRAINING | _WAV2VEC2[size]
    run = "large" if size == "large" else f"base, iteration {2 if list(config['num_units']) == [500] else 1}"
    batch = dict(max_seconds=15.625, seconds_per_update=_HUBERT_BATCHES[size])
    return name + run.removeprefix(size), fields | _PRETRAINING | batch | _HUBERT[run]


def _published_ctc(model_type: str, size: str, record: Record) -> tuple[str, dict[str, Any] | None]:
    hours, rows = record["data"]["train"]["hours"], _CTC.get((model_type, size))
    if not rows or not hours:
        return "", None
    nearest = min(rows, key=lambda each: abs(math.log(each / hours)))
    label = "10 minutes" if nearest < 1 else f"{nearest} hour{'s' * (nearest > 1)}"
    architecture = config_class_of(model_type).preset(size)
    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "feat_extract_norm")
    fields = {name: getattr(architecture, name) for name in sizes}
    name = f"{config_class_of(model_type).method} {size.upper()} fine-tuned on {label}"
    return name, fields | _CTC_SHARED | _CTC_OF_OBJECTIVE[model_type] | dict(zip(_CTC_NAMES, rows[nearest]))


def _seconds_per_update(record: Record) -> float | None:
    """The most audio that an update can hold, over all processes."""
    recipe, processes = record["recipe"], record["machine"]["processes"]
    seconds, accumulation = recipe.get("batch_seconds"), recipe.get("gradient_accumulation_steps")
    return seconds * accumulation * processes if seconds and accumulation and processes else None


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, (list, tuple)):
        return list(ours) == list(theirs)
    # Published figures are rounded: 15.6 s and 15.625 s are the same.
    return math.isclose(ours, theirs, rel_tol=2e-3) if isinstance(ours, float) else ours == theirs


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return f"{len(value)} x {value[0]}" if len(value) > 2 and len(set(value)) == 1 else ", ".join(map(str, value))
    if isinstance(value, str):
        return value.replace("_", " ")
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1000 else f"{value:g}"
