"""HuBERT from raw audio in one command: MFCC units, a model, units of its best layer, a second model, ... and a report.

    accelerate launch examples/hubert_iterations.py examples/configs/hubert_iterations_base.yaml
    accelerate launch examples/hubert_iterations.py examples/configs/hubert_iterations_tiny.yaml     (CPU, an hour)

The YAML holds any argument of this script; `--help` lists them all, and the command line wins. Each stage has its own
folder in `output_dir`. Started again with the same settings, the script goes on where it stopped, or says that all is
complete. `report.md` shows how the units become better.
"""

import logging
import sys

from hf_ssl_speech import SpeechDataArguments, SpeechModelArguments, SpeechPreTrainingArguments
from hf_ssl_speech.recipes.hubert_iterations import HubertIterations, HubertIterationsArguments
from hf_ssl_speech.training.arguments import parse_arguments, tidy_errors


def main(argv):
    """All stages; those that are complete are left as they are."""
    model_args, data_args, args, iterations_args = parse_arguments(
        argv, SpeechModelArguments, SpeechDataArguments, SpeechPreTrainingArguments, HubertIterationsArguments
    )
    model_args.objective = "hubert"
    log_level = logging.INFO if args.process_index == 0 else logging.ERROR
    logging.basicConfig(level=log_level, format="%(message)s", stream=sys.stdout)

    HubertIterations(model_args, data_args, args, iterations_args).run()


if __name__ == "__main__":
    with tidy_errors():
        main(sys.argv[1:])
