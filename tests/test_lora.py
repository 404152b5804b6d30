"""LoRA: only adapters and head learn, exactly across a resume; merged and unmerged models are the same."""

import copy

import pytest
import torch
from datasets import load_from_disk
from test_exactness import largest_difference
from test_finetuning import finetune, save_rows, speech  # noqa: F401 fixtures
from train_tiny import SETTINGS
from train_tiny_ctc import CHARACTERS, FINETUNING, MASKS
from transformers import AutoModelForCTC, Wav2Vec2Model, set_seed

import hf_ssl_speech
from hf_ssl_speech import SSLHubertForCTC, SSLWav2Vec2ForCTC, add_lora, merge_lora
from hf_ssl_speech.recognition.transcription import load_recognizer, transcribe
from hf_ssl_speech.records import read_record
from hf_ssl_speech.training.lora import bare_model

peft = pytest.importorskip("peft", reason="the extra lora is not installed")


def make_trainer(output, rows, make_tiny, **settings):
    """A trainer of a tiny wav2vec 2.0 in float64 with adapters."""
    set_seed(0)
    processor = hf_ssl_speech.make_processor([CHARACTERS])
    model = make_tiny(SSLWav2Vec2ForCTC, vocab_size=len(processor.tokenizer), layerdrop=0.3, **MASKS).double()
    args = hf_ssl_speech.SpeechCTCTrainingArguments(output_dir=str(output), **{**SETTINGS, **FINETUNING, **settings})
    return hf_ssl_speech.SpeechCTCTrainer(
        add_lora(model, lora_dropout=0.1), args, load_from_disk(rows), processing_class=processor,
        normalization=hf_ssl_speech.TextNormalization(),
    )  # fmt: skip


@pytest.mark.parametrize("model_class", [SSLWav2Vec2ForCTC, SSLHubertForCTC])
def test_merged_equals_unmerged_and_the_adapters_load_again(model_class, architecture, make_tiny, tmp_path):
    model = make_tiny(model_class, **architecture)
    base, waveforms, mask = copy.deepcopy(model), torch.randn(2, 8_000), torch.ones(2, 8_000, dtype=torch.long)
    mask[1, 5_000:] = 0
    adapted = add_lora(model)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.normal_(std=0.2)
    adapted.eval().save_pretrained(tmp_path / "adapter")
    expected = adapted(waveforms, mask).logits
    assert (expected - base(waveforms, mask).logits).abs()[0].max() > 0.01
    for same in (merge_lora(adapted), peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()):
        torch.testing.assert_close(same(waveforms, mask).logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(adapted(waveforms, mask).logits, expected, rtol=0, atol=0)  # merging took a copy


def test_only_adapters_and_head_learn_and_the_thaw_reaches_into_the_wrapper(save_rows, make_tiny, tmp_path):  # noqa: F811
    rows = save_rows([2.0] * 4)
    trainer = make_trainer(tmp_path, rows, make_tiny, freeze_transformer_updates=2, max_steps=2)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}

    def moved() -> set[str]:
        now = trainer.model.named_parameters()
        return {name for name, weight in now if not torch.equal(weight, before[name])}

    trainer.train()
    assert bare_model(trainer.model).is_told
    assert len(moved()) == 2 and all("lm_head.modules_to_save" in name for name in moved())
    trainer.args.max_steps = 4
    trainer.train()
    adapters = {name for name in before if "lora_" in name}
    assert moved() - adapters == {name for name in before if "lm_head.modules_to_save" in name}
    assert len(adapters) == 3 * 2 * 2 and moved() & adapters  # layers, targets, factors


@pytest.mark.parametrize("target", ["pos_conv_embed.conv", "conv_layers.1.conv"])
def test_adapters_of_convolutions_are_heard_and_learn_in_training_too(target, make_tiny):
    model = make_tiny(SSLHubertForCTC, vocab_size=8, final_dropout=0.0, mask_time_prob=0.0, mask_feature_prob=0.0)
    settings = peft.LoraConfig(target_modules=[target], r=8, init_lora_weights=False)
    wrapped = peft.get_peft_model(model.float(), settings)
    given = dict(input_values=torch.randn(1, 4000), labels=torch.tensor([[1, 2]]))
    with torch.no_grad():
        heard = wrapped.eval()(**given).logits
    training = wrapped.train()(**given)
    assert (training.logits - heard).abs().max() < 1e-5
    training.loss.backward()
    adapters = [weight for name, weight in wrapped.named_parameters() if "lora_" in name]
    assert adapters and all(weight.grad.abs().max() > 0 for weight in adapters)


def test_an_interrupted_run_with_adapters_ends_with_the_same_weights(save_rows, make_tiny, tmp_path):  # noqa: F811
    rows = save_rows([1.2, 1.9, 2.3, 2.4, 3.1])
    settings = dict(max_steps=4, save_strategy="steps", save_steps=2, batch_seconds=8, head_learning_rate=1e-2)
    for name, resume in (("whole", None), ("on", str(tmp_path / "whole" / "checkpoint-2"))):
        trainer = make_trainer(tmp_path / name, rows, make_tiny, **settings)
        trainer.train(resume_from_checkpoint=resume)
        trainer.save_model()
    assert largest_difference(tmp_path / "whole", tmp_path / "on") == 0.0
    heads = [weight for group in trainer.optimizer.param_groups[2:] for weight in group["params"]]
    assert {id(weight) for weight in heads} == {
        id(weight) for weight in trainer.model.lm_head.parameters() if weight.requires_grad
    }


def test_the_script_leaves_a_merged_recogniser_with_its_adapters_and_a_card(finetune, make_tiny, tmp_path):  # noqa: F811
    stock = make_tiny(Wav2Vec2Model)
    stock.save_pretrained(tmp_path / "stock")
    start_there = ("--model_name_or_path", tmp_path / "stock", "--config", "{}")
    assert "parameters, of which" in finetune("run", *start_there, "--lora", '{"r": 4}')
    model, processor = load_recognizer(tmp_path / "run", device="cpu")
    assert not any("lora" in name for name in model.state_dict())
    row = {
        "name": "noise",
        "num_samples": 16_000,
        "audio": {"array": torch.randn(16_000).numpy(), "sampling_rate": 16_000},
    }
    assert len(transcribe(model, processor, [row])) == 1
    record = read_record(tmp_path / "run")
    assert record["status"] == "complete" and record["identity"]["lora"]["r"] == 4
    card = hf_ssl_speech.create_model_card(tmp_path / "run").text
    assert "LoRA" in card and "q_proj v_proj" in card
    fresh = AutoModelForCTC.from_pretrained(tmp_path / "stock", vocab_size=model.config.vocab_size, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(hf_ssl_speech.from_transformers(fresh), tmp_path / "run" / "adapter")
    waveforms = torch.randn(1, 16_000)
    torch.testing.assert_close(adapted.eval()(waveforms).logits, model(waveforms).logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(SystemExit, match="LoRA adapters need a pretrained encoder"):
        finetune("fresh", "--lora", "{}")
    with pytest.raises(SystemExit, match=r"PEFT does not have these settings.*rank"):
        finetune("typo", *start_there, "--lora", '{"rank": 4}')
