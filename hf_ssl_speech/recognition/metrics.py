"""Word and character error rates with bootstrap intervals, for all utterances and for groups of them."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import datasets
import evaluate
import jiwer
import numpy as np

# Draws of the bootstrap that are held at a time: 32 MB of indices.
DRAWS_AT_ONCE = 2**22


@dataclass(frozen=True)
class EditCounts:
    """The edits that turn the reference of each utterance into what was recognised, `(utterances,)` each."""

    hits: np.ndarray
    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> np.ndarray:
        """Words or characters of each reference."""
        return self.hits + self.substitutions + self.deletions

    def select(self, utterances: Sequence[int]) -> EditCounts:
        """The counts of some of the utterances."""
        kept = np.asarray(utterances, dtype=np.int64)
        return EditCounts(*(counts[kept] for counts in vars(self).values()))


def count_edits(
    predictions: Sequence[str], references: Sequence[str], unit: Literal["words", "characters"] = "words"
) -> EditCounts:
    """Counts the fewest edits between each reference and what was recognised, with jiwer.

    Args:
        predictions: Recognised texts, one for each utterance.
        references: True texts of the same utterances.
        unit: What is compared: words between white space, or characters, spaces between words included. White
            space of any kind, such as a no-break space, counts as a space.
    Raises:
        ValueError: If there are not as many predictions as references.
    """
    if len(predictions) != len(references):
        raise ValueError(
            f"Got {len(predictions):,} predictions for {len(references):,} references; expected one for each. A row "
            "that could not be recognised has the prediction ''."
        )
    predictions, references = (list(map(_spaced, texts)) for texts in (predictions, references))
    process = {"words": jiwer.process_words, "characters": jiwer.process_characters}[unit]
    counts = np.zeros((4, len(references)), dtype=np.int64)
    places = {"equal": 0, "substitute": 1, "delete": 2, "insert": 3}
    alignments = process(references, predictions).alignments if len(references) else []
    for utterance, chunks in enumerate(alignments):
        for chunk in chunks:
            length = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            counts[places[chunk.type], utterance] += length
    return EditCounts(*counts)


def _spaced(text: str) -> str:
    """A text whose white space is all spaces: jiwer knows no other between words."""
    return re.sub(r"\s", " ", text)


def show_edits(reference: str, heard: str) -> str:
    """A transcript, the prediction below it, and the edits marked below both."""
    edits = jiwer.process_words([_spaced(reference)], [_spaced(heard)])
    lines = jiwer.visualize_alignment(edits, show_measures=False, skip_correct=False, line_width=100).splitlines()
    return "\n".join(line.rstrip() for line in lines[1:] if line.strip())


def resample_rates(
    errors: np.ndarray, reference_length: np.ndarray, *, bootstrap: int = 1000, seed: int = 0
) -> np.ndarray:
    """Error rates on data sets drawn from the utterances with replacement (Bisani and Ney, 2004).

    Args:
        errors: Errors of each system in each utterance, `(systems, utterances)`. All systems get the same draws, so
            the differences between them are paired.
        reference_length: Words or characters of each reference, `(utterances,)`.
        bootstrap: Data sets to draw.
        seed: Of the draws.
    Returns:
        `(draws, systems)`: one row for each draw, but for those without a single word or character of reference.
    """
    if bootstrap < 1:
        raise ValueError(f"An interval needs draws, but bootstrap is {bootstrap}; 1000 is enough for most data.")
    rng = np.random.default_rng(seed)
    num_utterances = len(reference_length)
    at_once = max(1, DRAWS_AT_ONCE // num_utterances)
    rates = []
    for start in range(0, bootstrap, at_once):
        drawn = rng.integers(num_utterances, size=(min(at_once, bootstrap - start), num_utterances))
        lengths = reference_length[drawn].sum(1)
        sums = np.stack([system[drawn].sum(1) for system in errors], axis=1)  # (draws, systems)
        rates.append(sums[lengths > 0] / lengths[lengths > 0, None])
    return np.concatenate(rates)


def percentile_interval(draws: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The bounds between which the middle `confidence` of the draws lies, along their first dimension."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, usually 0.95.")
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def summarize_edits(
    counts: EditCounts, name: str, *, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, float | int | None]:
    """An error rate over all utterances together, its interval, and what it is made of.

    Args:
        counts: Edits of each utterance.
        name: Name of the rate: `wer` or `cer`.
        bootstrap, seed: See `resample_rates`. Utterances count as independent: where few speakers say many of them,
            the interval is too narrow for other speakers.
        confidence: Share of the draws that the interval holds.
    Returns:
        `{name}`, `low`, `high` and the sums of the counts. The rates are None if the references are empty
        altogether, and the interval is for a single utterance, which tells nothing of others.
    """
    sums = {kind: int(getattr(counts, kind).sum()) for kind in (*vars(counts), "reference_length")}
    if not sums["reference_length"]:
        return {name: None, "low": None, "high": None, **sums}
    draws = resample_rates(counts.errors[None], counts.reference_length, bootstrap=bootstrap, seed=seed)[:, 0]
    low, high = map(float, percentile_interval(draws, confidence))
    if len(counts.errors) == 1:  # every draw is that one
        low = high = None
    return {name: int(counts.errors.sum()) / sums["reference_length"], "low": low, "high": high, **sums}


def group_edits(counts: EditCounts, groups: Sequence[Hashable]) -> dict[Hashable, EditCounts]:
    """The counts of each group of utterances, in the order in which the groups first appear.

    Raises:
        ValueError: If there is not one group for each utterance.
    """
    if len(groups) != len(counts.hits):
        raise ValueError(f"Got groups for {len(groups):,} utterances; expected one for each of {len(counts.hits):,}.")
    members: dict[Hashable, list[int]] = {}
    for utterance, group in enumerate(groups):
        members.setdefault(group, []).append(utterance)
    return {group: counts.select(utterances) for group, utterances in members.items()}


class ErrorRate(evaluate.Metric):
    """Base of word and character error rate: errors over reference length, of all utterances together.

    So long utterances weigh more than short ones, and an empty reference adds its insertions to the errors and
    nothing to the length. `compute` takes

    - `predictions` and `references`: texts, compared as they are: normalise both alike before;
    - `bootstrap` (1000 draws of utterances), `confidence` (0.95) and `seed` (0) of the percentile interval;
    - `groups`: for a breakdown, one value for each utterance, such as its speaker. `add_batch` does not collect them.

    and returns the rate, `low` and `high`, the counts `hits`, `substitutions`, `deletions`, `insertions` and
    `reference_length`, and with `groups` the same for each of them under `groups`; None for the rate of a group whose
    references are all empty, and for the interval of a single utterance. Empty references only are a ValueError.
    """

    measure: ClassVar[str]
    unit: ClassVar[Literal["words", "characters"]]

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"Edits from reference to prediction over the {self.unit} of the references, with an interval.",
            citation="Bisani and Ney, Bootstrap estimates for confidence intervals in ASR performance evaluation, 2004",
            inputs_description="\npredictions: recognised texts; references: true texts of the same utterances.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        bootstrap: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
        groups: Sequence[Hashable] | None = None,
    ) -> dict[str, Any]:
        counts = count_edits(predictions, references, self.unit)
        if not counts.reference_length.any():
            raise ValueError(
                f"None of {len(references):,} references has any {self.unit}, so there is nothing to divide by; "
                "expected texts. Look at the column they come from, or at a normalisation that removes everything."
            )
        settings = {"bootstrap": bootstrap, "confidence": confidence, "seed": seed}
        scores: dict[str, Any] = summarize_edits(counts, self.measure, **settings)
        if groups is not None:
            parts = group_edits(counts, groups)
            scores["groups"] = {group: summarize_edits(part, self.measure, **settings) for group, part in parts.items()}
        return scores


class WordErrorRate(ErrorRate):
    """Word error rate, `wer`: words are separated by spaces. See `ErrorRate` for the rest."""

    measure = "wer"
    unit = "words"


class CharacterErrorRate(ErrorRate):
    """Character error rate, `cer`, spaces between words included. See `ErrorRate` for the rest."""

    measure = "cer"
    unit = "characters"
