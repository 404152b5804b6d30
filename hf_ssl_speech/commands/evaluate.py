"""Scores speech recognisers side by side, on the same audio and with the same normalisation of texts.

    hf-ssl-speech evaluate --models runs/ctc openai/whisper-tiny.en facebook/wav2vec2-base-960h \\
        --data librispeech/test --by speaker --output_dir runs/evaluation

Takes checkpoints of transformers: CTC models, ours or stock, Whisper and similar models. Also runs on a CPU; try
`--limit 20` first. Prints word and character error rates with their intervals, speed, and the worst utterances, and
writes them to `report.md`, `scores.png` and `scores.json`. Without `--limit`, it also writes each local model's scores
to the model's folder, for its card.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.commands.talking import log_on_the_first_process

if TYPE_CHECKING:
    from hf_ssl_speech.evaluation.recognizers import Recognizer

logger = logging.getLogger(__name__)


@dataclass
class EvaluationArguments:
    """Which recognisers are scored, and on what."""

    models: list[str] = field(metadata={"help": "Folders or Hub ids; the others are compared with the first."})
    data: list[str] = field(
        metadata={"help": "Hub dataset, folder of audio, folder of save_to_disk, or Parquet files (patterns too)."}
    )
    output_dir: str = field(metadata={"help": "Folder for report.md, scores.png and scores.json."})
    split: str = field(default="test", metadata={"help": "Split of the data; files named one by one are `train`."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration name of a Hub dataset."})
    audio_column: str = field(default="audio", metadata={"help": "Column with the audio."})
    text_column: str = field(default="text", metadata={"help": "Column with the transcripts."})
    by: list[str] = field(default_factory=list, metadata={"help": "Columns to break the scores down by."})
    limit: int | None = field(default=None, metadata={"help": "Score only this many rows, chosen at random."})
    prepare_workers: int | None = field(default=None, metadata={"help": "Processes that decode the audio."})

    case: str = field(
        default="lower",
        metadata={"help": "Case of all texts: lower, upper, or as they are.", "choices": ["lower", "upper", "keep"]},
    )
    punctuation: str = field(
        default="remove",
        metadata={"help": "Whether punctuation in the texts is removed.", "choices": ["remove", "keep"]},
    )
    keep_characters: str = field(default="'", metadata={"help": "Punctuation that stays."})
    unicode_form: str = field(default="NFKC", metadata={"help": "Unicode normal form of all texts."})
    numbers: str = field(
        default="keep",
        metadata={"help": "English number words: as they are, or as digits.", "choices": ["keep", "digits"]},
    )
    tags: str = field(
        default="remove", metadata={"help": "<COMMA>, [laughter] and similar tags.", "choices": ["remove", "keep"]}
    )
    text_language: str | None = field(
        default=None, metadata={"help": "Code of the texts' language, for its rules of normalisation."}
    )

    decoder: str = field(
        default="greedy",
        metadata={"help": "Decoder of CTC models: greedy, beam, or a decoder.json from tune-decoder."},
    )
    language_model: str | None = field(
        default=None, metadata={"help": "ARPA file for --decoder beam; a decoder.json names its own."}
    )
    language: str | None = field(default=None, metadata={"help": "Language, for Whisper (en) or MMS (eng)."})
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, ...; by default the best available."})
    batch_seconds: float | None = field(
        default=None, metadata={"help": "Seconds of audio in a batch; by default 60, and 12 on a CPU."}
    )

    bootstrap: int = field(default=1000, metadata={"help": "Number of bootstrap draws for the intervals."})
    confidence: float = field(default=0.95, metadata={"help": "Share of the draws inside an interval."})
    seed: int = field(default=0, metadata={"help": "Random seed of the draws."})

    def __post_init__(self):
        if self.language_model and self.decoder != "beam":
            raise ValueError(
                f"The decoder is {self.decoder}, which takes no --language_model: give --decoder beam too."
            )
        from hf_ssl_speech.recognition.decoding import BeamSettings

        self.beam = BeamSettings(self.language_model)
        if self.decoder != "beam":
            self.beam = None if self.decoder == "greedy" else BeamSettings.load(self.decoder)


def main(argv: list[str]):
    """Loads the data, scores one model after the other, compares and writes."""
    (args,) = parse_arguments(argv, EvaluationArguments, about=__doc__)
    from hf_ssl_speech.evaluation.comparison import differences, load_evaluation_set, save_scores, score, score_entry
    from hf_ssl_speech.evaluation.recognizers import is_seq2seq
    from hf_ssl_speech.evaluation.report import comparison_report, write_report
    from hf_ssl_speech.recognition.normalization import TextNormalization
    from hf_ssl_speech.recognition.transcription import load_processor
    from hf_ssl_speech.training.lock import hold

    log_on_the_first_process()
    hold(args.output_dir)

    # Before any is scored: all of them are there, and take the language.
    seq2seq = {name: is_seq2seq(name) for name in args.models}
    for name in args.models if args.language else ():
        if not seq2seq[name]:
            load_processor(name, args.language)

    # Data: rows that can't be scored are named, counted and left out for all models.
    evaluation_set = load_evaluation_set(
        args.data,
        TextNormalization(
            args.unicode_form,
            args.case,
            args.punctuation,
            args.keep_characters,
            args.tags,
            args.text_language,
            numbers=args.numbers,
        ),
        split=args.split,
        text_column=args.text_column,
        by=args.by,
        limit=args.limit,
        num_proc=args.prepare_workers,
        name=args.dataset_config,
        audio_column=args.audio_column,
    )

    # Scores: one model in memory at a time, its scores on disk before the next is loaded.
    draws = {"bootstrap": args.bootstrap, "confidence": args.confidence, "seed": args.seed}
    scores, entries = [], []
    for name in args.models:
        scores.append(score(load(name, seq2seq[name], args), evaluation_set))
        entries.append(score_entry(scores[-1], evaluation_set, **draws))
        if Path(name).is_dir() and not args.limit:
            save_scores([{key: value for key, value in entries[-1].items() if key != "model"}], name)
        logger.info(f"{name}: WER {entries[-1]['wer']['value']:.1%} in {scores[-1].seconds:.1f} s")

    # Report, picture and scores.
    report = comparison_report(scores, entries, differences(scores, **draws), evaluation_set, args.bootstrap)
    logger.info(f"\n{report}")
    save_scores(entries, args.output_dir)
    write_report(report, entries, args.output_dir)
    logger.info(f"report.md, scores.png and scores.json are in {args.output_dir}")


def load(name: str, seq2seq: bool, args: EvaluationArguments) -> Recognizer:
    """A recogniser of either kind."""
    from hf_ssl_speech.evaluation.recognizers import load_ctc, load_seq2seq

    settings = {"device": args.device, "batch_seconds": args.batch_seconds, "language": args.language}
    if seq2seq:
        return load_seq2seq(name, **settings)
    return load_ctc(name, beam=args.beam, **settings)
