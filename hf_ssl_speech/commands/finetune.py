"""Fine-tunes a pretrained encoder on transcribed speech with CTC, on one CPU, one GPU or many nodes.

    hf-ssl-speech finetune ctc_100h --train_data my_speech --model_name_or_path runs/wav2vec2-base --num_processes 8
    hf-ssl-speech finetune ctc_digits --train_data my_speech --use_cpu        (CPU, minutes)

Without `--model_name_or_path` the model starts from fresh weights, for comparison. The same command continues an
interrupted run from its last checkpoint.
"""

from __future__ import annotations

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.commands.talking import log_on_the_first_process
from hf_ssl_speech.recipes.inputs import SpeechCTCModelArguments, SpeechDataArguments, SpeechTextArguments
from hf_ssl_speech.training.arguments import SpeechCTCTrainingArguments


def main(argv: list[str]):
    """A try of the model, data, vocabulary, model, labels, training, in this order."""
    kinds = (SpeechCTCModelArguments, SpeechDataArguments, SpeechTextArguments, SpeechCTCTrainingArguments)
    model_args, data_args, text_args, args = parse_arguments(argv, *kinds, about=__doc__, launched=True)
    from transformers import set_seed

    from hf_ssl_speech.recipes.finetuning import (
        Transcripts,
        find_feature_extractor,
        finetune,
        load_transcribed,
        make_recognizer,
    )
    from hf_ssl_speech.recipes.splits import hold_out
    from hf_ssl_speech.training.ctc_trainer import SpeechCTCTrainer
    from hf_ssl_speech.training.lock import hold
    from hf_ssl_speech.training.trainer_settings import refuse_metric

    log_on_the_first_process(args.process_index)
    set_seed(args.seed)

    start = model_args.model_name_or_path
    feature_extractor = find_feature_extractor(model_args)
    transcripts = Transcripts.given(text_args, feature_extractor, start)
    # What is wrong with the model shows before the data is prepared.
    tried = make_recognizer(model_args, transcripts, text_args.new_vocabulary)
    refuse_metric(args, [*tried.metric_names, *SpeechCTCTrainer.own_metrics])
    if not args.preflight_only:
        hold(args.output_dir)
    train = load_transcribed("train", data_args, args, text_args)
    validation = load_transcribed("validation", data_args, args, text_args, beside=train)
    train, validation = hold_out(train, validation, data_args)
    transcripts = transcripts or Transcripts.of_rows(train, text_args, feature_extractor)
    model = make_recognizer(model_args, transcripts, text_args.new_vocabulary)
    train = transcripts.label(train, "train", model.config, args, data_args)
    validation = transcripts.label(validation, "validation", model.config, args, data_args)
    finetune(model, args, train, validation, transcripts, start)
