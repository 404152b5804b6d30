"""Makes a speech corpus on the spot, for a first run with no download: 30 minutes take seconds on one CPU core.

    pip install espeakng-loader
    python examples/make_speech.py speech --minutes 30

Writes `train` and `validation` Parquet files with texts and phones, no speaker in both, for `load_dataset("speech")`.
Smaller still: `python examples/make_speech.py speech --minutes 2 --languages en --speakers 10`.

The command `hf-ssl-speech make-speech` runs the same code.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "make-speech")

if __name__ == "__main__":
    start("make-speech")
