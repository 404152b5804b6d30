"""A page that shows what a HuBERT run has learnt, with its model running in the browser.

    python examples/make_explorer.py runs/hubert --units runs/units-mfcc runs/units-500 --output_dir page \\
        --train_data 'speech/train*.parquet' --validation_data 'speech/validation*.parquet' --credit 'My speech, CC0'
    (CPU, two minutes)

`docs/explorer.md` tells more.

The command `hf-ssl-speech explore` runs the same code.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "explore")

if __name__ == "__main__":
    start("explore")
