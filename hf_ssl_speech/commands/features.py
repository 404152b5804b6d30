"""Writes features of audio as a dataset: any layer of an encoder, MFCC, or units without repeats and their durations.

    hf-ssl-speech features --data my_audio --encoder runs/hubert --layer 4 --output_dir runs/features
    hf-ssl-speech features --data my_audio --units runs/units --keep text speaker --output_dir runs/unit-text

Writes Parquet files for `load_dataset` while the features are computed, so that memory does not grow. Runs on a CPU
too. Complete features are not computed again.
"""

from __future__ import annotations

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.commands.talking import log_on_the_first_process
from hf_ssl_speech.recipes.arguments import FeatureArguments


def main(argv: list[str]):
    """Loads, computes and writes."""
    (args,) = parse_arguments(argv, FeatureArguments, about=__doc__, launched=True)
    import torch
    from accelerate import PartialState

    from hf_ssl_speech.recipes.features import FeatureWriter
    from hf_ssl_speech.training.lock import hold

    state = PartialState(cpu=not torch.accelerator.is_available())
    log_on_the_first_process(state.process_index)
    hold(args.output_dir)
    FeatureWriter(args, state).run()
