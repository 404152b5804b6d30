"""Error rates against minutes of labels: several starts, amounts of labels and seeds, all with the same updates.

    hf-ssl-speech label-efficiency label_efficiency_digits --starts scratch hubert=runs/hubert-tiny      (CPU, hours)
    hf-ssl-speech label-efficiency label_efficiency_librispeech --starts scratch base=facebook/hubert-base-ls960

A start is `scratch` or NAME=CHECKPOINT, where the checkpoint is a folder or a Hub id, ours or stock. A larger amount of
labels contains the smaller ones, and all speakers have equal shares. Every cell is a run of `finetune` in a folder of
its own; its checkpoint is chosen on validation rows, and the test rows are only scored. The same command continues
where an interrupted run stopped. It leaves `results.json`, `report.md` and `curve.png` in the output folder.
"""

from __future__ import annotations

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.commands.talking import log_on_the_first_process
from hf_ssl_speech.recipes.arguments import LabelEfficiencyArguments
from hf_ssl_speech.recipes.inputs import SpeechCTCModelArguments, SpeechDataArguments, SpeechTextArguments
from hf_ssl_speech.training.arguments import SpeechCTCTrainingArguments


def main(argv: list[str]):
    """Trains and scores all cells that are not finished."""
    kinds = (
        LabelEfficiencyArguments,
        SpeechCTCModelArguments,
        SpeechDataArguments,
        SpeechTextArguments,
        SpeechCTCTrainingArguments,
    )
    settings, model_args, data_args, text_args, args = parse_arguments(argv, *kinds, about=__doc__, launched=True)
    from hf_ssl_speech.recipes.label_efficiency import LabelEfficiency

    log_on_the_first_process(args.process_index)
    LabelEfficiency(model_args, data_args, text_args, args, settings).run()
