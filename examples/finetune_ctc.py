"""Fine-tunes a pretrained encoder on transcribed speech with CTC, on one CPU, one GPU or many nodes.

    accelerate launch examples/finetune_ctc.py examples/configs/ctc_100h.yaml --model_name_or_path runs/wav2vec2-base
    accelerate launch examples/finetune_ctc.py examples/configs/ctc_digits.yaml --use_cpu      (CPU, minutes)

The YAML may hold any argument; the command line takes precedence. `hf-ssl-speech finetune` runs the same code,
and its `--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "finetune")

if __name__ == "__main__":
    start("finetune")
