"""Pretrains a speech encoder on raw audio, on one CPU, one GPU or many nodes.

    hf-ssl-speech pretrain wav2vec2_base --train_data my_audio --output_dir runs/mine --num_processes 8
    hf-ssl-speech pretrain wav2vec2_tiny --train_data my_audio --max_steps 300        (CPU, minutes)
    hf-ssl-speech pretrain hubert_base --train_data my_audio --units runs/units-mfcc
    hf-ssl-speech pretrain continue_pretraining --train_data my_audio --model_name_or_path facebook/wav2vec2-base

The same command continues an interrupted run from its last checkpoint.
"""

from __future__ import annotations

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.commands.talking import log_on_the_first_process
from hf_ssl_speech.recipes.inputs import SpeechModelArguments, SpeechPreTrainingDataArguments
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments


def main(argv: list[str]):
    """Model, data, training, in this order: problems with the model show before the data is prepared."""
    kinds = (SpeechModelArguments, SpeechPreTrainingDataArguments, SpeechPreTrainingArguments)
    model_args, data_args, args = parse_arguments(argv, *kinds, about=__doc__, launched=True)
    from transformers import set_seed

    from hf_ssl_speech.data.feature_extractor import feature_extractor_for
    from hf_ssl_speech.recipes.pretraining import load_data, make_model, pretrain
    from hf_ssl_speech.recipes.unit_labels import UnitLabels

    log_on_the_first_process(args.process_index)
    set_seed(args.seed)

    units = UnitLabels.load(model_args, data_args)
    model = make_model(model_args, **(units.config_fields if units else {}))
    if units:
        units.check_rate(model.config)
    start = model_args.model_name_or_path
    feature_extractor = feature_extractor_for(model.config, start)
    train, validation = load_data(model, data_args, args, data_args.unit_columns or ())
    if units:  # what HuBERT predicts
        train, validation = units.label(train, args), units.label(validation, args)
    pretrain(model, args, train, validation, processing_class=feature_extractor, units=units, start=start)
