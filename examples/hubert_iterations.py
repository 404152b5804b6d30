"""HuBERT from raw audio in one command: MFCC units, a model, units of its best layer, a second model, ... and a report.

    accelerate launch examples/hubert_iterations.py examples/configs/hubert_iterations_base.yaml
    accelerate launch examples/hubert_iterations.py examples/configs/hubert_iterations_tiny.yaml     (CPU, an hour)

The YAML holds any argument of this script; `--help` lists them, and the command line wins. Each stage has its own
folder in `output_dir`. Started again with the same settings, the script goes on where it stopped, or says that all is
complete. `report.md` shows how the units become better.

The command `hf-ssl-speech hubert` runs the same code.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "hubert")

if __name__ == "__main__":
    start("hubert")
