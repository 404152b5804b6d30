"""Pretrains a speech encoder on raw audio, on one CPU, one GPU or many nodes.

    accelerate launch examples/pretrain.py examples/configs/wav2vec2_base.yaml
    accelerate launch examples/pretrain.py examples/configs/wav2vec2_tiny.yaml --max_steps 300     (CPU, minutes)
    accelerate launch examples/pretrain.py examples/configs/hubert_base.yaml --units runs/units-mfcc
    accelerate launch examples/pretrain.py examples/configs/continue_pretraining.yaml --train_data my_audio

The YAML may hold any argument; the command line takes precedence. `hf-ssl-speech pretrain` runs the same code,
and its `--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "pretrain")

if __name__ == "__main__":
    start("pretrain")
