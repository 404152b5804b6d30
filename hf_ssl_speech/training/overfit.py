"""Whether a recogniser can overfit a few rows: a model that can't will not learn from more rows either.

A copy of the model takes `UPDATES` updates on `ROWS` rows, without masks and dropout, at each learning rate of `RATES`
until one works: large models need a low learning rate, small ones a high one. Its loss must become `FACTOR` times lower
than the lowest loss that is possible without using the audio, by an output that is the same in all frames.

Measured with fresh weights on English, where 2.8 is possible without the audio: HuBERT TINY, SMALL and BASE reached
0.57, 0.00 and 0.00 at the first learning rate. At 3e-4 BASE stayed at 4.1.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hf_ssl_speech.data.rows import numbers
from hf_ssl_speech.models.configuration import SSLSpeechConfig
from hf_ssl_speech.models.frames import num_frames
from hf_ssl_speech.models.objectives import ctc_loss
from hf_ssl_speech.training.dry_step import leaving_no_trace
from hf_ssl_speech.training.findings import Finding

if TYPE_CHECKING:
    from hf_ssl_speech.training.ctc_trainer import SpeechCTCTrainer

ROWS = 4
UPDATES = 40
WARMUP = 10
RATES = (1e-4, 5e-4, 3e-3)
FACTOR = 2

DEAF_UPDATES = 200
DEAF_RATE = 0.1


def check_overfit(trainer: SpeechCTCTrainer) -> Finding:
    """Whether a copy of the model learns a few training rows by heart; the model itself is left as it is."""
    batch = few_rows(trainer)
    if not any(weight.requires_grad for weight in trainer.model.parameters()):
        return Finding("overfit", "No weight can learn: all are frozen.", "error")
    tried = []
    with leaving_no_trace(trainer.model):
        deaf = deaf_loss(batch["labels"], frames_of(trainer, batch), trainer.model.config)
        for rate in RATES:
            losses = learn_by_heart(trainer, batch, rate)
            tried.append(f"from {losses[0]:.2f} to {losses[-1]:.2f} at learning rate {rate:g}")
            found = f"loss of {len(batch['labels'])} rows for each token in {UPDATES} updates: "
            if losses[-1] <= deaf / FACTOR:  # false for what is no number
                return Finding("overfit", f"{found}{tried[-1]}; {deaf:.2f} without listening")
    return Finding(
        "overfit",
        f"{found}{', '.join(tried)}; it should be {FACTOR} times below {deaf:.2f}, the best without listening. "
        "Check that the audio is speech, that the initial weights are sound, and that not too many weights are frozen.",
        "error",
    )


def few_rows(trainer: SpeechCTCTrainer) -> dict[str, Any]:
    """A batch of training rows of about equal length, a quarter up the range, with nothing hidden."""
    dataset = trainer.train_dataset
    by_length = np.argsort(numbers(dataset, "num_samples"), kind="stable")
    start = min(len(by_length) // 4, max(0, len(by_length) - ROWS))
    batch = trainer.evaluation_collator([dataset[int(index)] for index in by_length[start : start + ROWS]])
    return trainer._prepare_inputs({name: value for name, value in batch.items() if isinstance(value, Tensor)})


def frames_of(trainer: SpeechCTCTrainer, batch: dict[str, Any]) -> Tensor:
    """Frames of each row of a batch, `(batch,)`."""
    audio, mask = batch["input_values"], batch.get("attention_mask")
    lengths = torch.full(audio.shape[:1], audio.shape[1], device=audio.device) if mask is None else mask.sum(-1)
    return num_frames(lengths, trainer.model.config.conv_layers)


def learn_by_heart(trainer: SpeechCTCTrainer, batch: dict[str, Any], rate: float) -> list[float]:
    """The losses of a copy of the model before each update on one batch, and after the last."""
    model = copy.deepcopy(trainer.model).eval()
    model.set_update(model.thaw_update)  # the first update in which all learn
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=rate, betas=(0.9, 0.98))
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: min(1.0, (update + 1) / WARMUP))
    losses = []
    while True:
        with trainer.accelerator.autocast():
            loss = model(**batch).loss
        losses.append(loss.item())
        if len(losses) > UPDATES or not math.isfinite(losses[-1]):
            return losses
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        warmup.step()


def deaf_loss(labels: Tensor, frames: Tensor, config: SSLSpeechConfig) -> float:
    """The lowest loss per token, nearly, of an output that is the same in every frame of every row.

    Args:
        labels: Token ids `(batch, tokens)`, filled up with -100.
        frames: Frames of each row, `(batch,)`.
    """
    output = torch.zeros(config.vocab_size, device=labels.device, requires_grad=True)
    optimizer = torch.optim.Adam([output], lr=DEAF_RATE)
    for _ in range(DEAF_UPDATES):
        logits = output.expand(len(labels), int(frames.max()), -1)
        loss = ctc_loss(logits, frames, labels, config.pad_token_id).sum() / (labels != -100).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()
