"""A tiny model really learns from real speech."""

import pytest
import torch

from hf_ssl_speech import (
    SpeechPreTrainer,
    SpeechPreTrainingArguments,
    SSLWav2Vec2Config,
    SSLWav2Vec2ForPreTraining,
    load_speech,
    prepare_speech,
)


@pytest.fixture
def speech(corpora):
    """Training and validation rows of real speech."""
    folder = corpora / "librispeech-mini"
    splits = (f"{folder}/train_10min*.parquet {folder}/train_1h_rest*.parquet", f"{folder}/validation*.parquet")
    return [prepare_speech(load_speech(split), min_seconds=1, cache=True)[0] for split in splits]


def test_wav2vec2_learns_to_pick_the_true_frame_on_real_speech(speech, tmp_path):
    """The short version of `examples/configs/wav2vec2_tiny.yaml`."""
    torch.manual_seed(0)
    train, validation = speech
    smaller = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=3, conv_dim=[64] * 7)
    model = SSLWav2Vec2ForPreTraining(SSLWav2Vec2Config.preset("tiny", **smaller))
    arguments = SpeechPreTrainingArguments(
        output_dir=str(tmp_path), batch_seconds=16, max_seconds=4, min_seconds=1, max_steps=500, learning_rate=2e-3,
        lr_scheduler_type="constant_with_warmup", warmup_steps=100, max_grad_norm=1, logging_steps=50, use_cpu=True,
        save_strategy="no", disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    trainer = SpeechPreTrainer(model, arguments, train_dataset=train, eval_dataset=validation.select(range(60)))
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert before["eval_accuracy"] < 3 * before["eval_chance"]
    assert after["eval_accuracy"] > 3 * after["eval_chance"]
    for group in (1, 2):
        assert after[f"eval_soft_perplexity_{group}"] > 0.25 * model.config.num_codevectors_per_group
