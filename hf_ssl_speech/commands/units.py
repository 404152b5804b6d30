"""Makes the units that HuBERT learns to predict: k-means over MFCC, or over a layer of an encoder.

    hf-ssl-speech units --train_data speech --output_dir runs/units-mfcc
    hf-ssl-speech units --train_data speech --output_dir runs/units-2 --encoder runs/hubert-1 --layer 6 --num_units 500

Also runs on a CPU. Writes the unit set for `KMeansUnits.from_pretrained`, `run.json` and, if `--validation_data` has
phones, the units' quality and two pictures; with `--abx true` also the ABX error rates of features and units (through
fastabx; needs the column `speaker`). Existing units are never overwritten: with the same settings the command
says that they are complete; with other settings it ends with an error.
"""

from __future__ import annotations

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.commands.talking import log_on_the_first_process
from hf_ssl_speech.recipes.arguments import UnitArguments
from hf_ssl_speech.recipes.inputs import SpeechDataArguments


def main(argv: list[str]):
    """Fits, measures, draws and saves."""
    data_args, args = parse_arguments(argv, SpeechDataArguments, UnitArguments, about=__doc__, launched=True)
    import torch
    from accelerate import PartialState

    from hf_ssl_speech.recipes.units import make_units
    from hf_ssl_speech.training.lock import hold

    state = PartialState(cpu=not torch.accelerator.is_available())
    log_on_the_first_process(state.process_index)
    hold(args.output_dir)
    make_units(data_args, args, state)
