"""Fine-tunes a tiny wav2vec 2.0 on labelled rows from disk, in one process or several; see train_tiny.py."""

from conftest import TINY
from datasets import load_from_disk
from train_tiny import SETTINGS
from transformers import set_seed

import hf_ssl_speech

MASKS = dict(mask_time_prob=0.3, mask_time_length=5, mask_feature_prob=0.2, mask_feature_length=4)
FINETUNING = dict(eval_strategy="no", load_best_model_at_end=False, tri_stage=[0, 1, 0])
CHARACTERS = "abcd"


def make_trainer(output: str, settings: dict, config: dict, train=None, evaluation=None):
    """A trainer of a tiny model that spells a, b, c and d."""
    set_seed(0)
    processor = hf_ssl_speech.make_processor([CHARACTERS])
    sizes = dict(vocab_size=len(processor.tokenizer), pad_token_id=0)
    model = hf_ssl_speech.SSLWav2Vec2ForCTC(
        hf_ssl_speech.SSLWav2Vec2Config(**{**TINY, **MASKS, **sizes, **config})
    ).double()
    arguments = hf_ssl_speech.SpeechCTCTrainingArguments(output_dir=output, **{**SETTINGS, **FINETUNING, **settings})
    normalization = hf_ssl_speech.TextNormalization()
    return hf_ssl_speech.SpeechCTCTrainer(
        model, arguments, train, evaluation, processing_class=processor, normalization=normalization
    )


def train(rows: str, output: str, settings: dict, config: dict, resume: str | None = None):
    """Trains, saves the model to `output` and returns the trainer."""
    trainer = make_trainer(output, settings, config, load_from_disk(rows))
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    return trainer
