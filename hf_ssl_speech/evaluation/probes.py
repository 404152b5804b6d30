"""Probes: what a linear layer can predict from frozen features, as in SUPERB (Yang et al., 2021)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from hf_ssl_speech.evaluation.probe_features import Frames
from hf_ssl_speech.models.heads import mix_layers, pool_frames
from hf_ssl_speech.models.objectives import ctc_loss, frames_needed
from hf_ssl_speech.recognition.metrics import count_edits, percentile_interval, resample_rates
from hf_ssl_speech.records import Rate

logger = logging.getLogger(__name__)

BLANK = 0
EVALUATIONS = 10
WARMUP_SHARE = 0.1
WEIGHT_DECAY = 0.01
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Targets:
    """What a probe is to predict for each row.

    Attributes:
        rows: The class of each row, or its sequence of classes.
        names: The names of the classes, in the order of their numbers; for sequences, the blank of CTC first.
        is_sequence: Whether rows have sequences of classes.
    """

    rows: list[int] | list[list[int]]
    names: list[str]
    is_sequence: bool

    def select(self, places: Sequence[int]) -> Targets:
        """The targets of some rows."""
        return Targets([self.rows[place] for place in places], self.names, self.is_sequence)


class Probe(nn.Module):
    """Learned weights of layers, which start equal, a projection, pooling, and a linear layer.

    Each layer of the features is normalised first, so that a weight tells how much its layer matters. The weights have
    the names they have in `SSLSpeechForSequenceClassification`, which can take them over.

    Args:
        layers, width: Number of layers in the features, and their width.
        projected: Width after the projection.
        classes: Number of classes.
        pooling: `mean` or `attentive`; None keeps all frames, for CTC.
    """

    def __init__(self, layers: int, width: int, projected: int, classes: int, pooling: str | None):
        super().__init__()
        self.layer_weights = nn.Parameter(torch.full((layers,), 1 / layers))
        self.projector = nn.Linear(width, projected)
        self.pooling_attention = nn.Linear(projected, 1) if pooling == "attentive" else None
        self.classifier = nn.Linear(projected, classes)
        self.pooling = pooling
        self.register_buffer("mean", torch.zeros(layers, width))
        self.register_buffer("scale", torch.ones(layers))
        self.register_buffer("deviation", torch.ones(width))

    def forward(self, states: Tensor, frame_mask: Tensor) -> Tensor:
        """Class logits, `(batch, classes)` or `(batch, frames, classes)`.

        Args:
            states: `(batch, layers, frames, width)`.
            frame_mask: Which frames are real, `(batch, frames)`.
        """
        # The weighted sum over layers of (states - mean) / scale, written so that a head can take it over.
        shares = self.layer_weights.softmax(-1) / self.scale
        hidden = mix_layers(states, self.layer_weights - self.scale.log()) * shares.sum() - shares @ self.mean
        hidden = self.projector(hidden / self.deviation)
        if self.pooling:
            hidden = pool_frames(hidden, frame_mask, self.pooling_attention)
        return self.classifier(hidden)

    def weights_of_head(self) -> dict[str, Tensor]:
        """Weights for a head that gets the features unnormalised and gives the same logits."""
        weights = {name: weight.detach().clone() for name, weight in self.named_parameters()}
        shares, projection = weights["layer_weights"].softmax(-1) / self.scale, weights["projector.weight"]
        weights["layer_weights"] -= self.scale.log()
        weights["projector.weight"] = projection / self.deviation * shares.sum()
        weights["projector.bias"] -= projection / self.deviation @ (shares @ self.mean)
        return weights


def fit_probe(
    train: tuple[Frames, Targets],
    validation: tuple[Frames, Targets],
    *,
    projected: int,
    pooling: str | None,
    updates: int,
    batch_rows: int,
    learning_rates: Sequence[float],
    seed: int,
    progress: bool = False,
) -> tuple[Probe, dict[str, Any]]:
    """Trains a probe at each learning rate, and returns the one with the fewest errors on validation rows.

    Args:
        train, validation: Features and targets.
        projected, pooling: As for `Probe`.
        updates, batch_rows, learning_rates, seed: Settings of AdamW, whose learning rate rises and falls linearly.
        progress: Whether to show bars.
    Returns:
        The probe, and how it was chosen: `learning_rate`, `update`, `validation_error`.
    Raises:
        ValueError: If no row can be learnt from.
    """
    frames, targets = train
    usable = np.arange(len(frames))
    if targets.is_sequence:
        needed = frames_needed(_padded(targets)).numpy()
        usable = np.flatnonzero((needed > 0) & (needed <= frames.lengths()))
    if not len(usable):
        raise ValueError("No row can be learnt from: each has more labels than its audio has frames.")
    moments = dict(zip(("mean", "scale", "deviation"), frames.moments()))
    best: tuple[float, Probe | None, dict[str, Any]] = (np.inf, None, {})
    for learning_rate in learning_rates:
        torch.manual_seed(seed)
        probe = Probe(*frames.values.shape[1:], projected, len(targets.names), pooling)
        probe.load_state_dict(moments, strict=False)
        optimizer = torch.optim.AdamW(probe.parameters(), learning_rate, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: _share_of_rate(update, updates))
        order = np.random.default_rng(seed)
        with tqdm(range(1, updates + 1), desc=f"learning rate {learning_rate:g}", disable=not progress) as bar:
            for update in bar:
                batch = order.choice(usable, min(batch_rows, len(usable)), replace=False)
                loss = _loss(probe, *frames.batch(batch), targets.select(batch))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                if update == updates or update % max(1, updates // EVALUATIONS) == 0:
                    wrong, length = errors(probe, *validation, batch_rows)
                    error = float(wrong.sum() / length.sum())
                    bar.set_postfix(loss=f"{loss.item():.3f}", validation_error=f"{error:.1%}")
                    if error < best[0]:
                        facts = {"learning_rate": learning_rate, "update": update, "validation_error": error}
                        best = (error, copy.deepcopy(probe), facts)
    return best[1], best[2]


@torch.no_grad()
def errors(probe: Probe, frames: Frames, targets: Targets, batch_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors of a probe in each row, and the length of its target, both `(rows,)`.

    For classes these are 0 or 1, and 1; for sequences the edits to the true sequence, and its length.
    """
    probe.eval()
    heard: list[Any] = []
    for start in range(0, len(frames), batch_rows):
        states, mask = frames.batch(np.arange(start, min(start + batch_rows, len(frames))))
        choice = probe(states, mask).argmax(-1)
        heard += [_collapse(row[real]) for row, real in zip(choice, mask)] if targets.is_sequence else choice.tolist()
    probe.train()
    if not targets.is_sequence:
        return (np.array(heard) != np.array(targets.rows)).astype(np.int64), np.ones(len(heard), np.int64)
    texts = [[" ".join(map(str, row)) for row in rows] for rows in (heard, targets.rows)]
    counts = count_edits(*texts)
    return counts.errors, counts.reference_length


def error_rate(wrong: np.ndarray, length: np.ndarray, *, bootstrap: int = 1000, seed: int = 0) -> Rate:
    """The rate of all rows together with its bootstrap interval over the rows."""
    drawn = resample_rates(wrong[None], length, bootstrap=bootstrap, seed=seed)[:, 0]
    low, high = map(float, percentile_interval(drawn, CONFIDENCE))
    return {"value": float(wrong.sum() / length.sum()), "low": low, "high": high, "confidence": CONFIDENCE}


def _loss(probe: Probe, states: Tensor, mask: Tensor, targets: Targets) -> Tensor:
    """Cross-entropy for each row, or CTC for each label."""
    logits = probe(states, mask)
    if not targets.is_sequence:
        return F.cross_entropy(logits, torch.tensor(targets.rows))
    labels = _padded(targets)
    return ctc_loss(logits, mask.sum(-1), labels, BLANK).sum() / (labels != -100).sum().clamp(min=1)


def _padded(targets: Targets) -> Tensor:
    """Sequences of classes `(rows, labels)`, filled up with -100."""
    rows = [torch.tensor(row, dtype=torch.int64) for row in targets.rows]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)


def _collapse(choice: Tensor) -> list[int]:
    """The symbols that CTC reads from the choices of all frames: repeats count once, and blanks are left out."""
    return [number for number in torch.unique_consecutive(choice).tolist() if number != BLANK]


def _share_of_rate(update: int, updates: int) -> float:
    warmup = max(1, int(WARMUP_SHARE * updates))
    return min((update + 1) / warmup, (updates - update) / max(1, updates - warmup))
