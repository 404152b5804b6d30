"""Pretrains a speech encoder on raw audio, on one CPU, one GPU or many nodes.

    accelerate launch examples/pretrain.py examples/configs/wav2vec2_base.yaml
    accelerate launch examples/pretrain.py examples/configs/wav2vec2_tiny.yaml --max_steps 300     (CPU, minutes)
    accelerate launch examples/pretrain.py examples/configs/hubert_base.yaml --units runs/units-mfcc
    accelerate launch examples/pretrain.py examples/configs/continue_pretraining.yaml --train_data my_audio

The YAML holds any argument of this script; `--help` lists them all, and the command line wins. Started again, the run
goes on from its last checkpoint.
"""

import logging
import sys

from transformers import set_seed

from hf_ssl_speech import SpeechDataArguments, SpeechModelArguments, SpeechPreTrainingArguments
from hf_ssl_speech.recipes.pretraining import make_model, pretrain
from hf_ssl_speech.recipes.splits import load_split
from hf_ssl_speech.recipes.unit_labels import UnitLabels
from hf_ssl_speech.training.arguments import parse_arguments, tidy_errors
from hf_ssl_speech.training.trainer import feature_extractor_for


def main(argv):
    """Model, data, training, in this order: what is wrong with the model shows before the data is prepared."""
    model_args, data_args, args = parse_arguments(
        argv, SpeechModelArguments, SpeechDataArguments, SpeechPreTrainingArguments
    )
    log_level = logging.INFO if args.process_index == 0 else logging.ERROR
    logging.basicConfig(level=log_level, format="%(message)s", stream=sys.stdout)
    set_seed(args.seed)

    units = UnitLabels.load(model_args, data_args)
    model = make_model(model_args, **(units.config_fields if units else {}))
    start = model_args.model_name_or_path
    feature_extractor = feature_extractor_for(model.config, start)
    train = load_split("train", data_args, args)
    validation = load_split("validation", data_args, args, beside=train)
    if units:  # what HuBERT predicts
        train, validation = units.label(train, args), units.label(validation, args)
    pretrain(model, args, train, validation, processing_class=feature_extractor, units=units, start=start)


if __name__ == "__main__":
    with tidy_errors():
        main(sys.argv[1:])
