"""Pretrains a speech encoder on raw audio, on one CPU, one GPU or many nodes.

    accelerate launch examples/pretrain.py examples/configs/wav2vec2_base.yaml
    accelerate launch examples/pretrain.py examples/configs/wav2vec2_tiny.yaml --max_steps 300     (CPU, minutes)

The YAML holds any argument of this script; `--help` lists them all, and the command line wins. Started again, the run
goes on from its last checkpoint.
"""

import logging
import sys

from transformers import set_seed

from hf_ssl_speech import (
    SpeechDataArguments,
    SpeechModelArguments,
    SpeechPreTrainer,
    SpeechPreTrainingArguments,
    SSLHubertConfig,
    SSLHubertForPreTraining,
    SSLWav2Vec2Config,
    SSLWav2Vec2ForPreTraining,
    load_speech,
    prepare_speech,
    prepare_stream,
)
from hf_ssl_speech.training.arguments import parse_arguments, tidy_errors
from hf_ssl_speech.training.preflight import check_disk, check_masks, find_checkpoint, run_identity
from hf_ssl_speech.training.record import RecordKeeper, split_facts, stream_facts

MODELS = {
    "wav2vec2": (SSLWav2Vec2Config, SSLWav2Vec2ForPreTraining),
    "hubert": (SSLHubertConfig, SSLHubertForPreTraining),
}
logger = logging.getLogger("pretrain")


def main(argv):
    """Data, model, checks, training, in this order."""
    model_args, data_args, args = parse_arguments(
        argv, SpeechModelArguments, SpeechDataArguments, SpeechPreTrainingArguments
    )
    logging.basicConfig(
        level=logging.INFO if args.process_index == 0 else logging.ERROR, format="%(message)s", stream=sys.stdout
    )
    set_seed(args.seed)

    # Data: rows that can't be used are named, counted and left out.
    data, facts = {"validation": None}, {}
    data["train"], facts["train"] = load_split("train", data_args, args)
    if data_args.validation_data:
        data["validation"], facts["validation"] = load_split("validation", data_args, args)

    # Model: a preset, or the weights of a checkpoint of ours or of stock transformers.
    config_class, model_class = MODELS[model_args.objective]
    if model_args.model_name_or_path:
        model = model_class.from_pretrained(
            model_args.model_name_or_path, attn_implementation=model_args.attn_implementation, **model_args.config
        )
    else:
        config = config_class.preset(model_args.preset, **model_args.config)
        model = model_class._from_config(config, attn_implementation=model_args.attn_implementation)
    logger.info(f"{model_class.__name__}, {model.num_parameters():,} parameters")

    # Checks: before the first step, in words.
    check_masks(model.config, args.min_seconds)
    check_disk(model, args)
    identity = run_identity(model.config, {split: fact["fingerprint"] for split, fact in facts.items()}, args)
    checkpoint = find_checkpoint(identity, args)

    # Training.
    trainer = SpeechPreTrainer(model, args, train_dataset=data["train"], eval_dataset=data["validation"])
    trainer.add_callback(RecordKeeper(trainer, identity, facts))
    if checkpoint:
        logger.info(f"Going on from {checkpoint}")
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    logger.info(f"The model, run.json and training.png are in {args.output_dir}")


def load_split(split, data_args, args):
    """The prepared rows of a split, and what the run's record says of them."""
    source = getattr(data_args, f"{split}_data")
    streaming = data_args.streaming and split == "train"
    with args.main_process_first(desc=f"preparing {split} data"):
        dataset = load_speech(
            source,
            split=getattr(data_args, f"{split}_split"),
            name=data_args.dataset_config,
            streaming=streaming,
            audio_column=data_args.audio_column,
        )
        if streaming:
            return prepare_stream(dataset, min_seconds=args.min_seconds), stream_facts(source)
        dataset, report = prepare_speech(
            dataset, min_seconds=args.min_seconds, cache=data_args.cache_audio, num_proc=data_args.prepare_workers
        )
    facts = split_facts(source, dataset, report)
    logger.info(f"{split}: {facts['rows']:,} utterances, {facts['hours']:.2f} hours. {report}")
    return dataset, facts


if __name__ == "__main__":
    with tidy_errors():
        main(sys.argv[1:])
