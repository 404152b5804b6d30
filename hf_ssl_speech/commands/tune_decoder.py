"""Finds the best weights of a beam search on validation data, and saves them in `decoder.json`.

    hf-ssl-speech tune-decoder --model runs/ctc --data librispeech/validation --language_model runs/lm.arpa \\
        --output_dir runs/ctc

The recogniser runs once; its logits are then decoded with every pair of weights. Prints the word error rate of each.
`hf-ssl-speech evaluate --decoder runs/ctc/decoder.json` scores with the best weights, `hf-ssl-speech ngram` makes a
language model, and `--limit 100` takes only 100 rows, chosen at random.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.commands.talking import log_on_the_first_process

logger = logging.getLogger(__name__)


@dataclass
class TuningArguments:
    """What is tuned, and on what."""

    model: str = field(metadata={"help": "Folder or Hub id of a recogniser with a CTC head."})
    data: list[str] = field(metadata={"help": "Validation speech with transcripts; never the test data."})
    output_dir: str = field(metadata={"help": "Folder for decoder.json, such as the model's own."})
    language_model: str | None = field(default=None, metadata={"help": "ARPA file or KenLM binary."})
    words: str | None = field(default=None, metadata={"help": "File with the words of a binary language model."})
    split: str = field(default="validation", metadata={"help": "Split of the data; files named singly are `train`."})
    text_column: str = field(default="text", metadata={"help": "Column with the transcripts."})
    limit: int | None = field(default=None, metadata={"help": "Decode only this many rows, chosen at random."})
    lm_weights: list[float] = field(
        default_factory=lambda: [0.5, 1.0, 1.5, 2.0, 3.0, 4.0], metadata={"help": "Weights to try."}
    )
    word_scores: list[float] = field(
        default_factory=lambda: [-2.0, -1.0, 0.0, 1.0, 2.0], metadata={"help": "Scores for each word to try."}
    )
    language: str | None = field(default=None, metadata={"help": "Spoken language, for a model like MMS."})
    beam_size: int = field(default=100, metadata={"help": "Hypotheses kept from frame to frame."})
    batch_seconds: float | None = field(
        default=None, metadata={"help": "Seconds of audio in a batch; by default 60, and 12 on a CPU."}
    )


def main(argv: list[str]):
    """Runs the recogniser once, decodes with every pair of weights, keeps the best."""
    (args,) = parse_arguments(argv, TuningArguments, about=__doc__)
    from hf_ssl_speech.evaluation.comparison import load_evaluation_set, word_error_rate
    from hf_ssl_speech.recognition.decoding import BeamDecoder, BeamSettings, GreedyDecoder
    from hf_ssl_speech.recognition.transcription import compute_logits, load_normalization, load_recognizer
    from hf_ssl_speech.training.lock import hold

    log_on_the_first_process()
    hold(args.output_dir)
    model, processor = load_recognizer(args.model, language=args.language)
    parts = (processor.tokenizer, model.config)
    settings = BeamSettings(args.language_model, args.words, beam_size=args.beam_size)
    search = BeamDecoder(*parts, settings)  # files that don't fit are found before the model runs

    # Data and logits.
    normalization = load_normalization(args.model, processor)
    rows = load_evaluation_set(
        args.data, normalization, split=args.split, text_column=args.text_column, limit=args.limit
    )
    heard = [
        (places, logits.cpu(), frames)
        for places, logits, frames in compute_logits(model, processor, rows.rows, args.batch_seconds, progress=True)
    ]

    # Word error rates over both weights.
    greedy = word_error_rate(GreedyDecoder(*parts), heard, rows)
    logger.info(f"WER without a beam search: {greedy:.2%}\nWER with it, over lm_weight (down) and word_score (right):")
    logger.info(" " * 8 + "".join(f"{score:>8g}" for score in args.word_scores))
    surface = {}
    for lm_weight in args.lm_weights if args.language_model else [0.0]:
        for word_score in args.word_scores:
            settings = replace(settings, lm_weight=lm_weight, word_score=word_score)
            surface[settings] = word_error_rate(search.reweighed(lm_weight, word_score), heard, rows)
        line = [surface[replace(settings, word_score=score)] for score in args.word_scores]
        logger.info(f"{lm_weight:>8g}" + "".join(f"{rate:>8.2%}" for rate in line))

    # If several are equally good, the smallest weights are taken.
    best = min(surface, key=lambda each: (surface[each], abs(each.word_score), each.lm_weight))
    best.save(args.output_dir)
    logger.info(
        f"Best: WER {surface[best]:.2%} with lm_weight {best.lm_weight:g} and word_score {best.word_score:g}, "
        f"saved in {args.output_dir}/decoder.json"
    )
