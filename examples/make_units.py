"""Makes the units that HuBERT learns to predict: k-means over MFCC, or over a layer of an encoder.

    accelerate launch examples/make_units.py --train_data speech --output_dir runs/units-mfcc
    accelerate launch examples/make_units.py --train_data speech --output_dir runs/units-2 --encoder runs/hubert-1 \\
        --layer 6 --num_units 500

`hf-ssl-speech units` runs the same code, and its `--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "units")

if __name__ == "__main__":
    start("units")
