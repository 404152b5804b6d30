"""Finds when each word and character of transcribed speech was said, by forced alignment.

    python examples/align.py --model runs/ctc --data librispeech/test --output_dir runs/aligned --textgrids True

Writes `aligned.parquet`, the data with the columns `words` and `characters` (lists of `text`, `start` and `end` in
seconds), and with `--textgrids` one Praat file for each row. Rows that can't be aligned are named, counted and left
out. Runs on a CPU too; `--limit 20` gives a first look.

The command `hf-ssl-speech align` runs the same code.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "align")

if __name__ == "__main__":
    start("align")
