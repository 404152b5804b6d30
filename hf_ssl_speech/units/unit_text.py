"""Units as text: a tokenizer for language models, and the files that other programs read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

START, END, PADDING, UNKNOWN = "<s>", "</s>", "<pad>", "<unk>"
# A unit that the same unit follows.
REPEATED = r"(?<!\d)(\d+)\s+(?=\1(?!\d))"


def unit_tokenizer(num_units: int) -> PreTrainedTokenizerFast:
    """A tokenizer of units written as numbers with spaces between, such as `17 17 4 250`.

    Of each run of equal units one is kept, as language models of units have it (Lakhotia et al., "On Generative Spoken
    Language Modeling from Raw Audio", section 3). `decode` gives the units back as text; how long each of them lasted
    is in the column `durations` that `hf-ssl-speech features --units` writes.

    Args:
        num_units: Units in the set. Unit `n` is the token `n`; after the units come padding, start, end and unknown.
    Returns:
        The tokenizer. It puts `<s>` before the units and `</s>` behind them.
    Raises:
        ValueError: If there are no units.
    """
    if num_units < 1:
        raise ValueError(f"num_units is {num_units}; expected at least 1.")
    names = [*map(str, range(num_units)), PADDING, START, END, UNKNOWN]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace(Regex(REPEATED), "")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = [(mark, vocabulary[mark]) for mark in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A {END}", f"{START} $A {END} $B {END}", marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PADDING,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def without_repeats(units: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The unit of each run of equal units, and the run's length in frames, both `(runs,)` int32."""
    units = np.asarray(units, np.int32)
    starts = np.flatnonzero(np.diff(units, prepend=-1))
    return units[starts], np.diff(starts, append=len(units)).astype(np.int32)


def as_text(units: Iterable[int]) -> str:
    """Units as the tokenizer reads them."""
    return " ".join(map(str, units))


def write_unit_texts(rows: Iterable[Mapping[str, Any]], paths: Mapping[str, str | None], stem: Path):
    """Writes rows of units beside `stem`, in the forms that other programs read.

    - `.txt`: a line for each row, without repeats, for a language model.
    - `.jsonl`: `{"name", "units", "durations"}` of each row, and its other columns.
    - `.km` and `.tsv`: fairseq's labels, a unit for each frame, and its manifest, audio files and their samples.

    Args:
        rows: With `name`, `num_samples`, `units` and, unless a unit stands for each frame, `durations`.
        paths: The audio file of each name; None where the audio lies inside another file: the manifest then has the
            name.
        stem: Where the files go, without their ending.
    """
    with ExitStack() as files:
        text, lines, labels, manifest = (
            files.enter_context(stem.with_name(stem.name + ending).open("w", encoding="utf-8"))
            for ending in (".txt", ".jsonl", ".km", ".tsv")
        )
        manifest.write("/\n")  # the folder that the paths start from
        for row in rows:
            if row.get("durations") is None:
                frames, (units, durations) = row["units"], without_repeats(row["units"])
            else:
                units, durations = row["units"], row["durations"]
                frames = np.repeat(units, durations)
            path = paths[row["name"]]
            text.write(f"{as_text(units)}\n")
            told = row | {"units": np.asarray(units).tolist(), "durations": np.asarray(durations).tolist()}
            lines.write(json.dumps(told, ensure_ascii=False) + "\n")
            labels.write(f"{as_text(frames)}\n")
            manifest.write(f"{row['name'] if path is None else Path(path).absolute()}\t{row['num_samples']}\n")
