"""Puts a pretrained encoder, a CTC model or a unit set on the Hub, with a card made from its records.

    hf auth login
    python examples/push_to_hub.py runs/wav2vec2-tiny me/wav2vec2-tiny --license apache-2.0 --language en \
        --datasets openslr/librispeech_asr=cc-by-4.0
    python examples/push_to_hub.py runs/wav2vec2-tiny me/wav2vec2-tiny-stock --stock      (loads without this package)
    python examples/push_to_hub.py runs/wav2vec2-tiny me/wav2vec2-tiny --card             (only prints the card)

`hf-ssl-speech push` runs the same code, and its `--help` explains it.
"""

from functools import partial

from hf_ssl_speech.commands.main import run, start

main = partial(run, "push")

if __name__ == "__main__":
    start("push")
