"""Makes the units that HuBERT learns to predict: k-means over MFCC, or over a layer of an encoder.

    accelerate launch examples/make_units.py --train_data speech --output_dir runs/units-mfcc
    accelerate launch examples/make_units.py --train_data speech --output_dir runs/units-2 --encoder runs/hubert-1 \\
        --layer 6 --num_units 500

Both run on a CPU too (`python examples/make_units.py ...`). Writes the unit set for `KMeansUnits.from_pretrained`,
`run.json` and, where `--validation_data` has phones, the units' quality and two pictures; with `--abx True` also how
well features and units tell phones apart (ABX, through fastabx; needs the column `speaker`). Units that are there
already are left as they are: asked for again, the script says so; asked for other units, it ends with an error.

The command `hf-ssl-speech units` runs the same code.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "units")

if __name__ == "__main__":
    start("units")
