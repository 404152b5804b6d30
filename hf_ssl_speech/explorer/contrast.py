"""What a page tells of wav2vec 2.0: hidden frames among distractors, and how much of the codebook is in use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import CONFIG_NAME

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.collators import Wav2Vec2PretrainingCollator
from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.explorer.runs import load_pretraining, record_of, run_facts
from hf_ssl_speech.models import objectives
from hf_ssl_speech.models.pretraining import SSLWav2Vec2ForPreTraining
from hf_ssl_speech.records import Record

# Settings that can make a codebook collapse.
TOLD = (
    "diversity_loss_weight",
    "gumbel_temperature_start",
    "gumbel_temperature_end",
    "gumbel_temperature_decay",
    "feature_gradient_scale",
    "learning_rate",
    "max_grad_norm",
)
CODEBOOK_USE = "how much of the codebook was in use"  # what is read in a record


class HiddenFrames(NamedTuple):
    """The hidden frames of one utterance, each of which is compared with all of them.

    Attributes:
        places: Their numbers in the utterance, `(hidden,)`.
        true: Cosine similarity of what the model expects in a frame to what is there, `(hidden,)`.
        others: The same to each of the hidden frames, minus infinity to those of the same code, `(hidden, hidden)`.
        codes: The codebook entries of each, one of each group, `(hidden, groups)`.
    """

    places: Tensor
    true: Tensor
    others: Tensor
    codes: Tensor


def contrast_view(run: str, collapsed: str | None, rows: Dataset, chosen: int, seed: int) -> dict[str, Any]:
    """All that the page shows of a wav2vec 2.0 pretraining, measured on `rows`; the page plays row `chosen`.

    Args:
        run: Its folder.
        collapsed: Folder of a run whose codebook collapsed, of which only the record is read; None for none.
        rows: Prepared speech.
        chosen: The row of `rows` that the page plays.
        seed: Of the spans that are hidden.
    Raises:
        ValueError: If a folder holds no wav2vec 2.0 pretraining, or the record has no curve of the codebook.
    """
    model, record = load_wav2vec2(run), record_of(run, CODEBOOK_USE)
    all_hidden = list(hide_frames(model, rows, seed))
    played = all_hidden[chosen]
    return {
        "run": run_facts(run, record),
        "hop": model.config.inputs_to_logits_ratio / SAMPLE_RATE,
        "frames": played.places.tolist(),
        "similarities": [[round(1000 * value) for value in row] for row in similarities(played).tolist()],
        "codes": played.codes.tolist(),
        "accuracy": [round(value, 4) for value in accuracies(all_hidden, model.config.num_negatives).tolist()],
        "measured_frames": sum(len(hidden.true) for hidden in all_hidden),
        "counts": entry_counts(model, all_hidden),
        "curve": codebook_curve(record, run),
        "collapsed": collapsed and collapse(collapsed, record),
    }


def load_wav2vec2(run: str) -> SSLWav2Vec2ForPreTraining:
    """The model of a run, with its codebook.

    Raises:
        ValueError: If the folder holds none.
    """
    # A run that was stopped has left its weights in its last checkpoint.
    folder = run if Path(run, CONFIG_NAME).exists() or not Path(run).is_dir() else get_last_checkpoint(run) or run
    advice = "give --wav2vec2 the folder that `hf-ssl-speech pretrain wav2vec2_tiny` or another of its configs wrote."
    return load_pretraining(folder, SSLWav2Vec2ForPreTraining, advice)


@torch.no_grad()
def hide_frames(model: SSLWav2Vec2ForPreTraining, rows: Dataset, seed: int) -> Iterator[HiddenFrames]:
    """Hides spans of each row as in an evaluation, and compares what the model expects with all that is hidden."""
    normalize = bool(feature_extractor_for(model.config, model.name_or_path).do_normalize)
    collator = Wav2Vec2PretrainingCollator(model.config, normalize=normalize, seed=seed, evaluation=True)
    temperature = model.config.contrastive_logits_temperature
    for row in rows:
        batch = collator([row])
        places = batch["masked_positions"]  # (1, hidden)
        outputs = model.wav2vec2(batch["input_values"], None, batch["mask_time_indices"], return_dict=True)
        quantized = model.quantizer(objectives.gather_frames(outputs.extract_features, places))
        expected = model.project_hid(objectives.gather_frames(outputs.last_hidden_state, places))
        everyone = torch.arange(places.shape[1]).expand(1, places.shape[1], -1)
        logits = objectives.contrastive_logits(
            expected, model.project_q(quantized.vectors), everyone, quantized.codes, temperature
        )
        cosines = temperature * logits[0]
        yield HiddenFrames(places[0], cosines[:, 0], cosines[:, 1:], quantized.codes[0])


def similarities(hidden: HiddenFrames) -> Tensor:
    """Cosines of each hidden frame to all, `(hidden, hidden)`, the true ones also to frames of the same code: those
    have the same vector."""
    return torch.where(hidden.others.isfinite(), hidden.others, hidden.true[:, None])


def accuracies(all_hidden: list[HiddenFrames], most: int) -> Tensor:
    """How often the true frame is picked among 1, 2, ... `most` distractors, `(most,)`, averaged over all draws.

    Distractors are drawn from the other hidden frames of the utterance, each time from all of them. The true frame is
    picked if no draw is more similar; one of the same code counts for nothing, and if there is nothing else, the frame
    is not counted as picked.
    """
    draws = torch.arange(1, most + 1, dtype=torch.float64)
    picked, frames = torch.zeros_like(draws), 0
    for hidden in all_hidden:
        others = max(len(hidden.true) - 1, 1)
        better = (hidden.others >= hidden.true[:, None]).sum(-1, keepdim=True)
        alike = len(hidden.true) - 1 - hidden.others.isfinite().sum(-1, keepdim=True)  # itself left out
        picked += ((1 - better / others) ** draws - (alike / others) ** draws).sum(0)
        frames += len(hidden.true)
    return picked / max(frames, 1)


def entry_counts(model: SSLWav2Vec2ForPreTraining, all_hidden: list[HiddenFrames]) -> list[list[int]]:
    """How often each entry of each group was chosen, the commonest first."""
    codes = torch.cat([hidden.codes for hidden in all_hidden])  # (hidden of all rows, groups)
    entries = model.config.num_codevectors_per_group
    return [torch.bincount(group, minlength=entries).sort(descending=True).values.tolist() for group in codes.T]


def codebook_curve(record: Record, run: str) -> list[list[float]]:
    """Update, and the entries that each group then had in use (perplexity), as the run logged them.

    Raises:
        ValueError: If the record has no such curve.
    """
    curve = []
    for point in record.get("curves") or []:
        used = [round(value, 2) for name, value in sorted(point.items()) if name.startswith("hard_perplexity_")]
        if used:
            curve.append([point["step"], *used])
    if not curve:
        raise ValueError(f"The record of {run} tells no use of a codebook: give a wav2vec 2.0 pretraining.")
    return curve


def collapse(run: str, other: Record) -> dict[str, Any]:
    """How a codebook fell out of use, as the record tells it, and in which settings the run differs from `other`."""
    record = record_of(run, CODEBOOK_USE)
    ours, theirs = settings_of(record), settings_of(other)
    return {
        "name": Path(run).name,
        "cause": record.get("cause"),
        "curve": codebook_curve(record, run),
        "settings": {name: [theirs.get(name), ours.get(name)] for name in TOLD if theirs.get(name) != ours.get(name)},
    }


def settings_of(record: Record) -> Mapping[str, Any]:
    """Of the model and of the training."""
    return {**(record.get("identity") or {}).get("config", {}), **(record.get("recipe") or {})}
