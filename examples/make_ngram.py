"""Makes an n-gram language model from text, for beam search with a recogniser.

    python examples/make_ngram.py --model runs/ctc --text books.txt --output_file runs/lm.arpa
    python examples/make_ngram.py --model runs/ctc --data librispeech --order 6 --characters True \\
        --output_file runs/characters.arpa

`hf-ssl-speech ngram` runs the same code, and its `--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "ngram")

if __name__ == "__main__":
    start("ngram")
