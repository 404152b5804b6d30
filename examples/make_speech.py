"""Makes a corpus of synthetic speech, for a first run without a download: 30 minutes take seconds on one CPU core.

    pip install espeakng-loader
    python examples/make_speech.py speech --minutes 30

`hf-ssl-speech make-speech` runs the same code, and its `--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "make-speech")

if __name__ == "__main__":
    start("make-speech")
