"""HuBERT from raw audio in one command: MFCC units, a model, units of its best layer, a second model, and a report.

    accelerate launch examples/hubert_iterations.py examples/configs/hubert_iterations_base.yaml
    accelerate launch examples/hubert_iterations.py examples/configs/hubert_iterations_tiny.yaml     (CPU, an hour)

The YAML may hold any argument; the command line takes precedence. `hf-ssl-speech hubert` runs the same code,
and its `--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "hubert")

if __name__ == "__main__":
    start("hubert")
