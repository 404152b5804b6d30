"""Finds the weights of a beam search on validation data, and keeps them in `decoder.json`.

    python examples/tune_decoder.py --model runs/ctc --data librispeech/validation --language_model runs/lm.arpa \\
        --output_dir runs/ctc

`hf-ssl-speech tune-decoder` runs the same code, and its `--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "tune-decoder")

if __name__ == "__main__":
    start("tune-decoder")
