"""The losses of both papers and of CTC as pure functions of tensors, computed in at least float32.

The losses of pretraining are sums over masked frames. Those come as `(batch, masked)`: the masked frames of each
utterance in order, rows filled up to the longest; `valid` is False on the fill.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_ssl_speech.models.precision import at_least_float32, in_float32


def gather_frames(frames: Tensor, positions: Tensor) -> Tensor:
    """Picks frames of each row: `(batch, frames, channels)` at `positions` `(batch, picked)`; -1 gives frame 0."""
    return frames.gather(1, positions.clamp(min=0)[..., None].expand(-1, -1, frames.shape[-1]))


@in_float32
def contrastive_logits(
    predictions: Tensor, targets: Tensor, negatives: Tensor, codes: Tensor, temperature: float
) -> Tensor:
    """Cosine similarity of each prediction to its own target and to its negatives (wav2vec 2.0, equation 3).

    All similarities within an utterance come from one matrix product, of which the sampled ones are picked.

    Args:
        predictions: Context of masked frames, `(batch, masked, dim)`.
        targets: Quantised frames, `(batch, masked, dim)`; not detached: the codebook learns through them.
        negatives: Which masked frames of the same utterance are the negatives, `(batch, masked, negatives)`.
        codes: Codebook entries of the targets, `(batch, masked, groups)`. A negative with the code of the positive is
            no negative: its logit is minus infinity.
    Returns:
        `(batch, masked, 1 + negatives)`, the logit of the true frame first.
    """
    similarities = F.normalize(predictions, dim=-1) @ F.normalize(at_least_float32(targets), dim=-1).mT / temperature
    same_code = (codes[:, :, None] == codes[:, None]).all(-1)  # (batch, masked, masked)
    true = similarities.diagonal(dim1=1, dim2=2)[..., None]
    false = similarities.masked_fill(same_code, -torch.inf).gather(2, negatives)
    return torch.cat([true, false], dim=-1)


def contrastive_loss(logits: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy of picking the true frame, summed over masked frames (wav2vec 2.0, equation 3)."""
    return ((logits.logsumexp(-1) - logits[..., 0]) * valid).sum()


def picks_the_true_frame(logits: Tensor) -> Tensor:
    """Whether the first logit beats all others, `(batch, masked)` bool; False where no negative is left to beat."""
    hardest = logits[..., 1:].amax(-1)
    return (logits[..., 0] > hardest) & hardest.isfinite()


def chance_of_the_true_frame(logits: Tensor) -> Tensor:
    """Chance that a guess among the true frame and its negatives is right, `(batch, masked)`; 0 without negatives."""
    candidates = logits.isfinite().sum(-1)
    return (candidates > 1) / candidates


def perplexity(distributions: Tensor) -> Tensor:
    """Exponential of the entropy over the last dimension: how many entries are in use, `(...)`."""
    return torch.exp(-torch.special.xlogy(distributions, distributions).sum(-1))


def gram_matrix(frames: Tensor) -> Tensor:
    """Products of the values of frames, `(frames, width)`, summed over the frames: `(width, width)` float64.

    In float32 the small directions, by which the rank is told, would drown in rounding.
    """
    frames = (frames.cpu() if frames.device.type == "mps" else frames).double()
    return frames.T @ frames


def effective_rank(gram: Tensor) -> Tensor:
    """How many directions frames use: the perplexity of their singular values (RankMe, arXiv:2210.02885).

    Args:
        gram: `gram_matrix` of the frames, added up over all of them.
    Returns:
        A scalar from 1, where all frames lie on one line, to the width, where they use all directions alike.
    """
    singular_values = torch.linalg.eigvalsh(gram.cpu()).clamp(min=0).sqrt()
    return perplexity(singular_values / singular_values.sum().clamp(min=torch.finfo(gram.dtype).tiny))


def diversity_loss(probabilities: Tensor, valid: Tensor) -> Tensor:
    """How far the average choice of codebook entries is from using all equally, in [0, 1) (wav2vec 2.0, equation 4).

    Args:
        probabilities: Softmax without noise, `(batch, masked, groups, entries)`.
    Returns:
        `(entries - perplexity) / entries`, averaged over groups; a scalar, to be weighted by the masked frames.
    """
    average = (probabilities * valid[..., None, None]).sum((0, 1)) / valid.sum().clamp(min=1)
    return 1 - perplexity(average).mean() / probabilities.shape[-1]


@in_float32
def unit_logits(projections: Tensor, unit_embeddings: Tensor, temperature: float) -> Tensor:
    """Cosine similarity of each projected frame to every unit's embedding, in one matrix product (HuBERT, equation 3).

    Args:
        projections: `(batch, frames, dim)`.
        unit_embeddings: `(units, dim)`.
    Returns:
        `(batch, frames, units)`.
    """
    return F.normalize(projections, dim=-1) @ F.normalize(at_least_float32(unit_embeddings), dim=-1).T / temperature


def unit_prediction_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each frame's unit, summed over the frames whose label is not -100 (HuBERT, equation 1)."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100, reduction="sum")


@in_float32
def likeness(predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """How far each predicted frame is from a teacher's, and how much it points the same way (DistilHuBERT, section 2).

    Args:
        predictions, targets: `(..., width)`.
    Returns:
        The mean absolute difference of the values, and the cosine similarity, `(...)`.
    """
    targets = at_least_float32(targets)
    return F.l1_loss(predictions, targets, reduction="none").mean(-1), F.cosine_similarity(predictions, targets, dim=-1)


def frames_needed(labels: Tensor) -> Tensor:
    """Frames that CTC needs to spell the labels: one for each token, and a blank between two alike.

    Args:
        labels: Token ids `(..., tokens)`, filled up with -100.
    Returns:
        `(...,)`.
    """
    given = labels != -100
    alike = (labels[..., 1:] == labels[..., :-1]) & given[..., 1:]
    return given.sum(-1) + alike.sum(-1)


@in_float32
def ctc_loss(logits: Tensor, num_frames: Tensor, labels: Tensor, blank: int) -> Tensor:
    """Negative log-likelihood of each row's labels (Graves et al. 2006, section 4.1).

    Args:
        logits: `(batch, frames, vocabulary)`.
        num_frames: Real frames of each row, `(batch,)`.
        labels: Token ids `(batch, tokens)`, filled up with -100.
    Returns:
        `(batch,)`; 0 where there are no labels, and where they need more frames than there are, whose loss is infinite.
    """
    lengths = (labels != -100).sum(-1)
    log_probabilities = logits.log_softmax(-1).transpose(0, 1)  # (frames, batch, vocabulary)
    with torch.backends.cudnn.flags(enabled=False):
        losses = F.ctc_loss(
            log_probabilities, labels.clamp(min=0), num_frames, lengths, blank, reduction="none", zero_infinity=True
        )
    return losses * (lengths > 0)
