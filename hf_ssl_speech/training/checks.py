"""The checks before a run of data, masks, recipe and machine, each in a function that returns what it found.

Thresholds, in one place:

- `MOST_UNFITTING`: a warning if a larger share of the transcripts need more frames than their audio has. How many rows
  may be unusable is a setting, `max_skipped_share`.
- `MASK_MARGIN`: a warning if the share of masked frames is further from the one that the config implies.
- `ALMOST_ALL`: a warning if the learning rate does not reach this share of the peak.
- `MOST_HIDDEN`: an error if a larger share of the frames is masked, which leaves too little context.
- `BATCH_FACTOR`: a warning if an update holds more or less audio than the recipe by a larger factor.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.batching import DurationBatchSampler
from hf_ssl_speech.data.masking import draw_spans
from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.models.frames import num_frames
from hf_ssl_speech.models.objectives import frames_needed
from hf_ssl_speech.recognition.text import MORE_TEXT_THAN_FRAMES
from hf_ssl_speech.training.arguments import SpeechTrainingArguments
from hf_ssl_speech.training.findings import Finding
from hf_ssl_speech.training.precision import cpu_computes_bf16
from hf_ssl_speech.training.schedules import shares_of_peak, updates_of_share

MOST_UNFITTING = 0.01
MASK_MARGIN = 0.1
ALMOST_ALL = 0.99
MOST_HIDDEN = 0.9
BATCH_FACTOR = 4

DROPOUTS = (
    "layerdrop", "hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout",
    "feat_quantizer_dropout",
)  # fmt: skip
MASK_ROWS = 500  # looked at, evenly chosen by length
TEXT_ROWS = 500


# Model ---------------------------------------------------------------------------------------------------------------


def refuse_config(config: SSLSpeechConfig, predicts_hidden: bool):
    """Raises a ValueError, with all causes, if a model with this configuration can't learn anything from any data.

    Args:
        predicts_hidden: Pretraining predicts what is hidden, so that something must be; fine-tuning need not hide.
    """
    found = [f"{name} is 1: nothing passes through" for name in DROPOUTS if getattr(config, name, 0) == 1]
    if predicts_hidden and config.hides_frames:
        if not config.apply_spec_augment or not config.mask_time_prob:
            name = "mask_time_prob" if config.apply_spec_augment else "apply_spec_augment"
            found.append(f"{name} is {getattr(config, name)}: nothing would be hidden, and so nothing predicted")
        if config.mask_feature_prob:
            channels = "channels are hidden in fine-tuning only: set it to 0"
            found.append(f"mask_feature_prob is {config.mask_feature_prob:g}, but {channels}")
        choices = {"num_codevectors_per_group": [getattr(config, "num_codevectors_per_group", 2)]}
        choices |= {"num_units": list(getattr(config, "num_units", [2]))}
        few = {name: numbers for name, numbers in choices.items() if min(numbers) < 2}
        found += [f"{name} is {numbers}: there is nothing to choose among" for name, numbers in few.items()]
    for name in ("mask_time_prob", "mask_feature_prob"):
        budget = getattr(config, name)
        if share_hidden(budget) > MOST_HIDDEN:
            meant = "it is a share, such as 0.65, and no percentage"
            found.append(f"{name} is {budget:g}, which hides {share_hidden(budget):.0%}: {meant}")
    if found:
        raise ValueError(f"Nothing can be learnt with this configuration of the model: {'; '.join(found)}.")


def share_hidden(budget: float) -> float:
    """The share of long audio that is masked by random, overlapping spans whose lengths add up to `budget` times it."""
    return 1 - math.exp(-budget)


# Data ----------------------------------------------------------------------------------------------------------------


def check_rows(part: str, facts: Mapping[str, Any]) -> Finding:
    """How much of a split, `train` or `validation`, is used, and why the rest is not.

    Args:
        facts: As a run's record has them (`split_facts` or `stream_facts`).
    """
    if facts.get("streaming"):
        return Finding(part, "a stream: rows are checked when they are read")
    skipped = facts["skipped"]
    reasons = ", ".join(f"{len(names):,} {reason}" for reason, names in skipped["skipped"].items())
    found = [f"{facts['rows']:,} rows, {facts['hours']:.2f} hours; {skipped['num_skipped']:,} skipped"]
    found[0] += f" ({reasons})" if reasons else ""
    shared, cropped = facts.get("shared_with_training"), facts.get("cropped")
    if "too_many_skipped" in facts:
        return Finding(part, facts["too_many_skipped"], "error")
    if "voice" in facts:
        voice = facts["voice"]
        found.append(f"{voice['share_dropped']:.1%} of the audio is not speech and is dropped")
    if shared:
        found.append(f"{shared:,} of the rows are training rows too: scores on them say nothing about new speech")
    if cropped:
        found.append(f"long rows are cropped: an epoch uses {cropped['share_used_each_epoch']:.1%} of the audio")
    return Finding(part, "; ".join(found), "warning" if shared else "ok")


def check_transcripts(facts: Mapping[str, Any], rows: Dataset, config: SSLSpeechConfig) -> Finding:
    """Whether the transcripts fit into the frames of their audio, and how many frames are to spare.

    Args:
        facts: The facts from `add_labels` about the training transcripts: `rows` kept, and counts `skipped` by reason.
        rows: The rows that are kept.
    """
    unfitting = facts["skipped"].get(MORE_TEXT_THAN_FRAMES, 0)
    share = unfitting / (facts["rows"] + sum(facts["skipped"].values()))
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), TEXT_ROWS)).astype(int)
    some = rows.with_format(None).select_columns(["labels", "num_samples"]).select(chosen)
    needed = [max(int(frames_needed(torch.tensor(labels))), 1) for labels in some["labels"]]
    frames = [num_frames(samples, config.conv_layers) for samples in some["num_samples"]]
    room = np.median(np.divide(frames, needed))
    found = f"{unfitting:,} rows have more text than frames; the others have {room:.1f} times the frames they need"
    if share <= MOST_UNFITTING:
        return Finding("transcripts", found)
    return Finding(
        "transcripts",
        f"{found}. If {share:.1%} do not fit, transcripts often belong to other audio, or audio is cut short: "
        "listen to some of the rows that are named above.",
        "warning",
    )


def check_masks(
    config: SSLSpeechConfig, args: SpeechTrainingArguments, num_samples: np.ndarray | None, predicts_hidden: bool
) -> Finding:
    """The share of frames that are really masked in audio of these lengths, compared with what the config implies.

    The spans hide `share_hidden(mask_time_prob)` of long audio; short audio can be hidden far more or far less.

    Args:
        num_samples: Lengths of the training rows; None for a stream, which is taken to hold all lengths alike.
        predicts_hidden: Pretraining predicts what is hidden, so that something must be; fine-tuning need not hide.
    """
    if predicts_hidden and not config.hides_frames:
        return Finding("masks", "no frames are masked: a student hears all that its teacher does")
    if not predicts_hidden and not (config.apply_spec_augment and config.mask_time_prob):
        return Finding("masks", "no frames are masked, as the config says")
    shortest = num_frames(int(args.min_seconds * SAMPLE_RATE), config.conv_layers)
    if predicts_hidden and shortest <= config.mask_time_length:
        return Finding(
            "masks",
            f"Audio of min_seconds={args.min_seconds:g} makes {shortest} frames, no more than the "
            f"{config.mask_time_length} of one mask span: raise min_seconds or lower mask_time_length.",
            "error",
        )
    share, meant = hidden_share(config, args, num_samples), share_hidden(config.mask_time_prob)
    found = f"{share:.1%} of the frames are hidden; mask_time_prob={config.mask_time_prob:g} means {meant:.0%}"
    if share == 0:
        way_out = "Nothing would be hidden: raise mask_time_prob, or lower mask_time_length to fit audio this short."
        return Finding("masks", f"{found}. {way_out}", "error" if predicts_hidden else "warning")
    if share > MOST_HIDDEN:
        return Finding("masks", f"{found}. Too little is left to see: lower mask_time_prob.", "error")
    if abs(share - meant) > MASK_MARGIN:
        way_out = "The audio is short for spans of that length: lower mask_time_length or mask_time_min_masks."
        return Finding("masks", f"{found}. {way_out}", "warning")
    return Finding("masks", found)


def hidden_share(config: SSLSpeechConfig, args: SpeechTrainingArguments, num_samples: np.ndarray | None) -> float:
    """The share of all frames that are masked in audio of these lengths, after cropping."""
    longest = round(args.max_seconds * SAMPLE_RATE)
    lengths = (
        [round(args.min_seconds * SAMPLE_RATE), longest] if num_samples is None else np.minimum(num_samples, longest)
    )
    chosen = np.quantile(lengths, np.linspace(0, 1, MASK_ROWS)).astype(int)
    generator = np.random.default_rng(args.order_seed)
    spans = dict(
        probability=config.mask_time_prob, length=config.mask_time_length, min_spans=config.mask_time_min_masks
    )
    masks = [
        draw_spans(num_frames(length, config.conv_layers), **spans, generator=generator) for length in chosen.tolist()
    ]
    return float(np.concatenate(masks).mean())


# Recipe --------------------------------------------------------------------------------------------------------------


class RunSize(NamedTuple):
    """The size of a run: optimizer updates, seconds of audio in each, epochs (None for a stream)."""

    updates: int
    seconds_per_update: float
    epochs: float | None


def run_size(args: SpeechTrainingArguments, sampler: DurationBatchSampler | None) -> RunSize:
    """Of a run with these batches; None stands for a stream, whose batches are taken to be full."""
    if sampler is None:
        return RunSize(args.max_steps, args.batch_seconds * args.batches_per_update, None)
    per_update = args.batches_per_update
    in_an_epoch = len(sampler) // args.gradient_accumulation_steps
    updates = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * in_an_epoch)
    return RunSize(updates, sampler.mean_seconds * per_update, updates * per_update / sampler.batches_of_all)


def check_schedule(args: SpeechTrainingArguments, updates: int) -> Finding:
    """Whether the schedules of the learning rate and the frozen weights fit a run of this many updates."""
    warmup = args.get_warmup_steps(updates)
    frozen = args.frozen_updates(updates) if hasattr(args, "frozen_updates") else 0
    has_stages = hasattr(args, "tri_stage") and args.lr_scheduler_type == "warmup_stable_decay"
    in_updates = has_stages and not args.stages_are_shares
    problems = []
    highest, last = shares_of_peak(args, updates)
    if highest < ALMOST_ALL:
        way_out = "Correct lr_scheduler_kwargs"
        if warmup >= updates:
            way_out = f"Lower {'tri_stage' if has_stages else 'warmup_steps'}, give it as a share of the run"
        problems.append(
            f"The learning rate never reaches its peak of {args.learning_rate:g}: it reaches "
            f"{highest * args.learning_rate:.2g} and ends at {last * args.learning_rate:.2g}. {way_out}, or raise "
            "max_steps"
        )
    elif in_updates and sum(args.tri_stage) != updates:
        planned, lowest = round(sum(args.tri_stage)), args.final_share * args.learning_rate
        what = f"it ends at a learning rate of {last * args.learning_rate:.2g} instead of {lowest:.2g}"
        if planned < updates:
            what = f"the other {updates - planned:,} keep the lowest learning rate, {lowest:.2g}"
        problems.append(
            f"The stages of tri_stage are {planned:,} updates together, but the run has {updates:,}: {what}. Give "
            "tri_stage in shares, as 0.1 0.4 0.5"
        )
    if frozen >= updates:
        problems.append(
            f"The encoder stays frozen for {frozen:,} updates, the whole run: lower freeze_transformer_updates, or "
            "give it as a share of the run"
        )
    found = f"{updates:,} updates, {warmup:,} of them warm-up"
    return Finding("schedule", ". ".join([found, *problems]) + "." * bool(problems), "warning" if problems else "ok")


def check_evaluations(args: SpeechTrainingArguments, updates: int) -> Finding:
    """Whether a run of this many updates reaches its first evaluation, which decides the best model."""
    if args.eval_strategy != "steps":
        return Finding(
            "evaluations", "none" if args.eval_strategy == "no" else f"after every {args.eval_strategy.value}"
        )
    every = updates_of_share(args.eval_steps, updates)
    first = every * max(1, math.ceil(args.eval_delay / every))
    found = f"every {every:,} updates, the first after {first:,}"
    if first <= updates:
        return Finding("evaluations", found)
    best = ", and the last model is kept for the best" if args.load_best_model_at_end else ""
    found += f", but the run has {updates:,}: nothing is evaluated{best}"
    way_out = "Lower eval_steps or eval_delay, or give eval_steps as a share of the run, such as 0.1"
    return Finding("evaluations", f"{found}. {way_out}.", "warning")


def check_batches(args: SpeechTrainingArguments, size: RunSize, published: tuple[str, float] | None = None) -> Finding:
    """How much audio an update holds, compared with the recipe, and how often the run sees the data.

    Args:
        published: Name and seconds per update of the published run with the same model, if there is one; otherwise
            `hours_per_update` is the reference.
    """
    found = f"{size.seconds_per_update:,.1f} s of audio per update ({size.seconds_per_update / 3600:.3g} hours)"
    if size.epochs is not None:
        found += f", {size.epochs:,.1f} epochs in all"
    name, meant = published or ("hours_per_update", 3600 * (args.hours_per_update or 0))
    if not meant:
        return Finding("batches", found)
    ratio = size.seconds_per_update / meant
    found += f"; {name} means {meant:,.1f} s"
    if 1 / BATCH_FACTOR <= ratio <= BATCH_FACTOR:
        return Finding("batches", found)
    return Finding(
        "batches",
        f"{found}, {max(ratio, 1 / ratio):.1f} times as {'little' if ratio > 1 else 'much'}: set hours_per_update to "
        f"{meant / 3600:.4f}, or choose another learning_rate.",
        "warning",
    )


# Machine -------------------------------------------------------------------------------------------------------------


def check_precision(args: SpeechTrainingArguments) -> Finding:
    """Whether the machine supports the requested precision."""
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "float32"
    if args.bf16 and args.device.type == "cpu" and not cpu_computes_bf16():
        return Finding(
            "precision",
            "bf16 on a CPU without bf16 instructions, where convolutions take 30 times as long: set bf16 to false, or "
            "to auto, which chooses.",
            "warning",
        )
    return Finding("precision", f"{precision} on {args.device.type}")


def check_disk(model: PreTrainedModel, args: SpeechTrainingArguments, updates: int) -> Finding:
    """Whether the kept checkpoints and the final model fit on the disk."""
    folder = Path(args.output_dir).resolve()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding("disk", f"Nothing can be written to {folder}: use another output_dir.", "error")
    kept = checkpoints_kept(args, updates)
    weights = 4 * model.num_parameters()
    needed = weights + kept * (weights if args.save_only_model else 3 * weights)  # Adam keeps two moments
    free = shutil.disk_usage(there).free
    found = f"{kept} checkpoints and the final model take {needed / 1e9:.2f} GB; {free / 1e9:.2f} GB are free"
    if free < needed:
        found += f" in {folder}: free some space, use another output_dir or lower save_total_limit"
    return Finding("disk", found, "error" if free < needed else "ok")


def checkpoints_kept(args: SpeechTrainingArguments, updates: int) -> int:
    """The most checkpoints on the disk at one time: a new one is written before the oldest is deleted."""
    if args.save_strategy == "no":
        return 0
    if args.save_total_limit:
        return args.save_total_limit + 1
    if args.save_strategy != "steps":
        return 2  # not known beforehand: at least these
    return max(1, math.ceil(updates / (args.save_steps if args.save_steps >= 1 else args.save_steps * updates)))
