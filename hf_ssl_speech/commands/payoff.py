"""What pretraining buys: encoders kept along one run, fine-tuned on few labels, probed and clustered.

    hf-ssl-speech payoff label_efficiency_librispeech --starts scratch runs/hubert/hours-* runs/hubert

Takes all arguments of `label-efficiency`. Each start's hours of audio seen are read from its records, which
`pretrain --keep_hours 5 20 100` leaves. The output folder gets `report.md`, `results.json` and `payoff.png`: error
rates on the test rows at each amount of labels, the phone error rate of a probe, and the PNMI of units, against hours
of audio seen. `labels`, `probe` and `units` in there hold the parts; started again, what is finished is read back.
"""

from __future__ import annotations

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.commands.talking import log_on_the_first_process
from hf_ssl_speech.recipes.arguments import LabelEfficiencyArguments, PayoffArguments
from hf_ssl_speech.recipes.inputs import SpeechCTCModelArguments, SpeechDataArguments, SpeechTextArguments
from hf_ssl_speech.training.arguments import SpeechCTCTrainingArguments


def main(argv: list[str]):
    """All parts for all starts, and the report; what is finished is left as it is."""
    settings, labels, model_args, data_args, text_args, args = parse_arguments(
        argv,
        PayoffArguments,
        LabelEfficiencyArguments,
        SpeechCTCModelArguments,
        SpeechDataArguments,
        SpeechTextArguments,
        SpeechCTCTrainingArguments,
        about=__doc__,
    )
    from hf_ssl_speech.recipes.payoff import Payoff

    log_on_the_first_process(args.process_index)
    Payoff(model_args, data_args, text_args, args, labels, settings, args.device).run()
