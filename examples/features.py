"""Writes features of audio as a dataset: any layer of an encoder, MFCC, or units without repeats and their durations.

    accelerate launch examples/features.py --data my_audio --encoder runs/hubert --layer 4 --output_dir runs/features
    python examples/features.py --data my_audio --units runs/units --keep text --output_dir runs/unit-text       (CPU)

`hf-ssl-speech features` runs the same code, and its `--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "features")

if __name__ == "__main__":
    start("features")
