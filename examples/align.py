"""Finds when each word and character of transcribed speech was said, by forced alignment.

    python examples/align.py --model runs/ctc --data librispeech/test --output_dir runs/aligned --textgrids True

`hf-ssl-speech align` runs the same code, and its `--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "align")

if __name__ == "__main__":
    start("align")
