"""Finds when each word and character of transcribed speech was said, by forced alignment.

    python examples/align.py --model runs/ctc --data librispeech/test --output_dir runs/aligned --textgrids True

Writes `aligned.parquet`, the data with the columns `words` and `characters` (lists of `text`, `start` and `end` in
seconds, and `score`: how likely the model finds it there, 0 to 1) and `score` (of the row: low where the transcript and
the audio differ), and with `--textgrids` one Praat file for each row. Rows that can't be aligned are named, counted and
left out; the rows with the lowest scores are named, too. Runs on a CPU too; `--limit 20` gives a first look.

The command `hf-ssl-speech align` runs the same code.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "align")

if __name__ == "__main__":
    start("align")
