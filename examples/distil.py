"""Trains a small student that learns several layers of a teacher.

    accelerate launch examples/distil.py examples/configs/distil_base.yaml --train_data my_audio
    accelerate launch examples/distil.py examples/configs/distil_tiny.yaml --teacher runs/tiny      (CPU, minutes)

The YAML may hold any argument; the command line takes precedence. `hf-ssl-speech distil` runs the same code, and its
`--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "distil")

if __name__ == "__main__":
    start("distil")
