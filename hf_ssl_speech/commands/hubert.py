"""HuBERT from raw audio in one command: MFCC units, a model, units of its best layer, a second model, and a report.

    hf-ssl-speech hubert hubert_iterations_base --train_data my_audio --num_processes 8
    hf-ssl-speech hubert hubert_iterations_tiny --train_data my_audio        (CPU, an hour)

Each stage has its own folder in `output_dir`. The same command continues where an interrupted run stopped, or says
that everything is complete. `report.md` shows how the units become better.
"""

from __future__ import annotations

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.commands.talking import log_on_the_first_process
from hf_ssl_speech.recipes.arguments import HubertIterationsArguments
from hf_ssl_speech.recipes.inputs import SpeechDataArguments, SpeechModelArguments
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments


def main(argv: list[str]):
    """All stages; those that are complete are left as they are."""
    kinds = (SpeechModelArguments, SpeechDataArguments, SpeechPreTrainingArguments, HubertIterationsArguments)
    model_args, data_args, args, iterations_args = parse_arguments(argv, *kinds, about=__doc__, launched=True)
    from hf_ssl_speech.recipes.hubert_iterations import HubertIterations

    model_args.objective = "hubert"
    log_on_the_first_process(args.process_index)
    HubertIterations(model_args, data_args, args, iterations_args).run()
