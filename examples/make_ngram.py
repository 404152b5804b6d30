"""Makes an n-gram language model from text, for beam search with a recogniser.

    python examples/make_ngram.py --model runs/ctc --text books.txt --output_file runs/lm.arpa
    python examples/make_ngram.py --model runs/ctc --data librispeech --order 6 --characters True \\
        --output_file runs/characters.arpa

Text is normalised as the recogniser's transcripts are. A model of words lets a beam search write these words only; one
of characters needs little text and lets it write anything. For more than some ten million words, KenLM's `lmplz` makes
the same kind of file.

The command `hf-ssl-speech ngram` runs the same code.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "ngram")

if __name__ == "__main__":
    start("ngram")
