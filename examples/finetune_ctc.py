"""Fine-tunes a pretrained encoder on transcribed speech with CTC, on one CPU, one GPU or many nodes.

    accelerate launch examples/finetune_ctc.py examples/configs/ctc_100h.yaml --model_name_or_path runs/wav2vec2-base
    accelerate launch examples/finetune_ctc.py examples/configs/ctc_digits.yaml --use_cpu      (CPU, minutes)

The YAML holds any argument of this script; `--help` lists them all, and the command line wins. Without
`--model_name_or_path` the model starts from fresh weights, for comparison. Started again, the run goes on from its last
checkpoint.
"""

import logging
import sys

from transformers import set_seed

from hf_ssl_speech import SpeechCTCTrainingArguments, SpeechDataArguments, SpeechModelArguments, SpeechTextArguments
from hf_ssl_speech.recipes.finetuning import (
    Transcripts,
    find_feature_extractor,
    finetune,
    load_transcribed,
    make_recognizer,
)
from hf_ssl_speech.training.arguments import parse_arguments, tidy_errors


def main(argv):
    """A try of the model, data, vocabulary, model, labels, training, in this order."""
    model_args, data_args, text_args, args = parse_arguments(
        argv, SpeechModelArguments, SpeechDataArguments, SpeechTextArguments, SpeechCTCTrainingArguments
    )
    log_level = logging.INFO if args.process_index == 0 else logging.ERROR
    logging.basicConfig(level=log_level, format="%(message)s", stream=sys.stdout)
    set_seed(args.seed)

    start = model_args.model_name_or_path
    feature_extractor = find_feature_extractor(model_args)
    transcripts = Transcripts.given(text_args, feature_extractor, start)
    # What is wrong with the model shows before the data is prepared.
    make_recognizer(model_args, transcripts, text_args.new_vocabulary)
    train = load_transcribed("train", data_args, args, text_args)
    validation = load_transcribed("validation", data_args, args, text_args, beside=train)
    transcripts = transcripts or Transcripts.of_rows(train, text_args, feature_extractor)
    model = make_recognizer(model_args, transcripts, text_args.new_vocabulary)
    train = transcripts.label(train, "train", model.config, args, text_args)
    validation = transcripts.label(validation, "validation", model.config, args, text_args)
    finetune(model, args, train, validation, transcripts, start)


if __name__ == "__main__":
    with tidy_errors():
        main(sys.argv[1:])
