"""Makes an n-gram language model from text, for beam search with a recogniser.

    hf-ssl-speech ngram --model runs/ctc --text books.txt --output_file runs/lm.arpa
    hf-ssl-speech ngram --model runs/ctc --data librispeech --order 6 --characters true \\
        --output_file runs/characters.arpa

Text is normalised like the recogniser's transcripts. With a word model, a beam search can write only its words; a
character model needs little text and allows any word. For more than about ten million words, use KenLM's `lmplz`, which
makes the same kind of file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.commands.talking import log_on_the_first_process

logger = logging.getLogger(__name__)


@dataclass
class NGramArguments:
    """Which text, and the length of the n-grams."""

    model: str = field(metadata={"help": "Folder or Hub id of the recogniser that the language model is for."})
    output_file: str = field(metadata={"help": "ARPA file to write."})
    text: list[str] = field(default_factory=list, metadata={"help": "Text files with one sentence per line."})
    data: list[str] = field(
        default_factory=list, metadata={"help": "Speech with transcripts: Hub dataset, folder or Parquet files."}
    )
    split: str = field(default="train", metadata={"help": "Split of the data; do not use the one that you score."})
    text_column: str = field(default="text", metadata={"help": "Column with the transcripts."})
    language: str | None = field(default=None, metadata={"help": "Language, for a model like MMS."})
    order: int = field(default=4, metadata={"help": "Length of the longest n-grams in words or characters, 2 to 6."})
    characters: bool = field(default=False, metadata={"help": "Make a character model instead of a word model."})


def main(argv: list[str]):
    """Reads, normalises, estimates and writes."""
    (args,) = parse_arguments(argv, NGramArguments, about=__doc__)
    from hf_ssl_speech.recognition.language_model import as_characters, check_order, write_ngram
    from hf_ssl_speech.recognition.transcription import load_normalization, load_processor

    check_order(args.order)
    log_on_the_first_process()
    normalize = load_normalization(args.model, load_processor(args.model, args.language))
    sentences = [normalize(sentence) for sentence in read_sentences(args)]
    if args.characters:
        sentences = map(as_characters, sentences)
    facts = write_ngram(sentences, args.output_file, order=args.order)
    logger.info(", ".join(f"{count:,} {what}" for what, count in facts.items()) + f" in {args.output_file}")


def read_sentences(args: NGramArguments) -> Iterator[str]:
    """Every line of the text files, every transcript of the data."""
    for file in args.text:
        if not Path(file).is_file():
            raise ValueError(f"There is no text file {file}.")
        with open(file, encoding="utf-8") as lines:
            yield from lines
    if args.data:
        from hf_ssl_speech.data.sources import load_speech
        from hf_ssl_speech.recognition.text import read_texts

        dataset = load_speech(args.data, split=args.split, text_column=args.text_column)
        yield from filter(None, read_texts(dataset, "text"))
