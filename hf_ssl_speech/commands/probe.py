"""Measures what frozen encoders know: speakers, languages, keywords, phones, or any other column of the data.

    hf-ssl-speech probe --encoders mine=runs/hubert base=facebook/hubert-base-ls960 --label_column speaker \\
        --train_data SPEECH --output_dir runs/probes
    hf-ssl-speech probe --encoders mine=runs/hubert --label_column phones --train_data SPEECH --output_dir runs/probes

Trains weights of the layers, a projection and a linear layer on features that are computed once, for each encoder and
also for MFCC, 80 mel bands and an untrained encoder. Runs on a CPU too. All tasks in one output folder share a table
with SUPERB's names and measures: `report.md`, `results.json`, and `layers.png` with the weights of the layers. Each
encoder's folder in there holds `run.json` and, for classes, the encoder with the probe as its head, for transformers'
`audio-classification` pipeline. Complete probes are not trained again.
"""

from __future__ import annotations

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.commands.talking import log_on_the_first_process
from hf_ssl_speech.recipes.arguments import ProbeArguments
from hf_ssl_speech.recipes.inputs import SpeechDataArguments


def main(argv: list[str]):
    """Computes features, trains, scores and reports, one encoder after the other."""
    args, data_args = parse_arguments(argv, ProbeArguments, SpeechDataArguments, about=__doc__)
    import torch

    from hf_ssl_speech.recipes.probing import Probing
    from hf_ssl_speech.training.lock import hold

    log_on_the_first_process()
    hold(args.output_dir)
    Probing(data_args, args, torch.device("cuda" if torch.cuda.is_available() else "cpu")).run()
