"""Finds when each word and character of transcribed speech was said, by forced alignment.

    hf-ssl-speech align --model runs/ctc --data librispeech/test --output_dir runs/aligned --textgrids true

Writes `aligned.parquet`: the data with the columns `words` and `characters` (lists of `text`, `start` and `end` in
seconds, and `score`, the probability that the model gives it there) and `score` (of the row: low where transcript and
audio differ). With `--textgrids` it also writes one Praat file for each row. Rows that can't be aligned are named,
counted and left out; the rows with the lowest scores are named, too. Also runs on a CPU; try `--limit 20` first.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.commands.talking import log_on_the_first_process

logger = logging.getLogger(__name__)


@dataclass
class AlignmentArguments:
    """What is aligned, and with which model."""

    model: str = field(metadata={"help": "Folder or Hub id of a recogniser with a CTC head."})
    data: list[str] = field(metadata={"help": "Speech with transcripts: Hub dataset, folder or Parquet files."})
    output_dir: str = field(metadata={"help": "Folder for aligned.parquet and the TextGrid files."})
    split: str = field(default="train", metadata={"help": "Split of the data."})
    text_column: str = field(default="text", metadata={"help": "Column with the transcripts."})
    limit: int | None = field(default=None, metadata={"help": "Align only this many rows, chosen at random."})
    textgrids: bool = field(default=False, metadata={"help": "Also write TextGrid files."})
    language: str | None = field(default=None, metadata={"help": "Spoken language, for a model like MMS."})
    batch_seconds: float | None = field(
        default=None, metadata={"help": "Seconds of audio in a batch; by default 60, and 12 on a CPU."}
    )


def main(argv: list[str]):
    """Loads, aligns and writes."""
    (args,) = parse_arguments(argv, AlignmentArguments, about=__doc__)
    from hf_ssl_speech.audio import SAMPLE_RATE
    from hf_ssl_speech.data.preparing import prepare_speech
    from hf_ssl_speech.data.sources import load_speech
    from hf_ssl_speech.evaluation.comparison import choose_rows
    from hf_ssl_speech.file_names import file_names
    from hf_ssl_speech.recognition.alignment import TEXTGRID, add_alignment, describe_scores, write_textgrid
    from hf_ssl_speech.recognition.transcription import load_normalization, load_recognizer
    from hf_ssl_speech.training.lock import hold

    log_on_the_first_process()
    hold(args.output_dir)
    model, processor = load_recognizer(args.model, language=args.language)

    dataset = choose_rows(load_speech(args.data, split=args.split, text_column=args.text_column), args.limit)
    made = ("audio", "name", "num_samples", "sample_id")
    others = [column for column in dataset.column_names if column not in made]
    rows, unusable = prepare_speech(dataset, min_seconds=0, keep=others)
    aligned, report = add_alignment(
        rows,
        model,
        processor,
        normalize=load_normalization(args.model, processor),
        batch_seconds=args.batch_seconds,
        progress=True,
    )
    logger.info(f"Audio: {unusable}\nAlignment: {report}\n{describe_scores(aligned)}")

    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    aligned.to_parquet(folder / "aligned.parquet")
    if args.textgrids:
        (folder / "textgrids").mkdir(exist_ok=True)
        names = file_names(aligned["name"], aligned["sample_id"], TEXTGRID)
        for row, name in zip(aligned.remove_columns("audio"), names):
            tiers = {tier: row[tier] for tier in ("words", "characters")}
            write_textgrid(tiers, row["num_samples"] / SAMPLE_RATE, folder / "textgrids" / name)
    logger.info(f"{len(aligned):,} rows with their times are in {folder}")
