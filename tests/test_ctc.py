"""CTC: the loss against its definition, what is frozen, and the batches."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from conftest import TINY

from hf_ssl_speech import (
    CTCCollator,
    SpeechCTCTrainer,
    SpeechCTCTrainingArguments,
    SSLHubertForCTC,
    SSLWav2Vec2Config,
    SSLWav2Vec2ForCTC,
    SSLWav2Vec2ForPreTraining,
    make_processor,
    to_transformers,
)
from hf_ssl_speech.models.objectives import ctc_loss, frames_needed
from hf_ssl_speech.training.schedules import tri_stage

MASKS = dict(mask_time_prob=0.5, mask_time_length=5, mask_feature_prob=0.25, mask_feature_length=4)


def rows_of(*seconds, labels=((3, 4, 2), (4, 2))):
    generator = np.random.default_rng(0)
    lengths = [int(16_000 * length) for length in seconds]
    return [
        {
            "name": f"row-{i}", "sample_id": i, "num_samples": length, "labels": list(labels[i % len(labels)]),
            "text": "ab", "samples": (generator.normal(size=length) * 3000).astype(np.int16),
        }
        for i, length in enumerate(lengths)
    ]  # fmt: skip


# The loss --------------------------------------------------------------------------------------------------------


def collapsed(path, blank=0):
    return tuple(token for token, _ in itertools.groupby(path) if token != blank)


def test_the_loss_is_that_of_all_paths_that_spell_the_labels():
    logits = torch.randn(2, 4, 3)
    labels = torch.tensor([[1, 2], [1, 1]])
    num_frames = torch.tensor([4, 3])
    losses = ctc_loss(logits, num_frames, labels, blank=0)
    for row in range(2):
        probabilities = logits[row, : num_frames[row]].softmax(-1)
        likelihood = sum(
            math.prod(probabilities[frame, token].item() for frame, token in enumerate(path))
            for path in itertools.product(range(3), repeat=int(num_frames[row]))
            if collapsed(path) == tuple(labels[row].tolist())
        )
        assert losses[row].item() == pytest.approx(-math.log(likelihood), rel=1e-5)


def test_repeated_labels_need_a_frame_more():
    labels = torch.tensor([[1, 1, 2, 2], [1, 2, 1, -100], [-100] * 4])
    assert frames_needed(labels).tolist() == [6, 3, 0]
    logits = torch.randn(1, 6, 3)
    assert ctc_loss(logits, torch.tensor([6]), labels[:1], 0).item() > 0
    assert ctc_loss(logits, torch.tensor([5]), labels[:1], 0).item() == 0


def test_rows_without_labels_and_rows_that_do_not_fit_move_no_weight_and_the_latter_are_counted(make_tiny):
    model = make_tiny(SSLHubertForCTC, vocab_size=7).double()
    speech = torch.randn(3, 4_000, dtype=torch.float64)
    labels = torch.tensor([[3] * 20, [-100] * 20, [3, 4] + [-100] * 18])
    output = model(speech, labels=labels, num_items_in_batch=2)
    alone = model(speech[2:], labels=labels[2:, :2], num_items_in_batch=2)
    assert output.loss.item() == pytest.approx(alone.loss.item(), rel=1e-5)
    assert model.metrics(output.statistics)["infinite_losses"] == 1
    assert "infinite_losses" not in model.metrics(alone.statistics)
    gradients = [torch.autograd.grad(each.loss, model.lm_head.weight)[0] for each in (output, alone)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_a_batch_of_unusable_rows_alone_has_loss_zero(make_tiny):
    model = make_tiny(SSLHubertForCTC, vocab_size=7)
    output = model(torch.zeros(1, 4_000), labels=torch.zeros(1, 0, dtype=torch.long), num_items_in_batch=0)
    assert output.loss.item() == 0
    output.loss.backward()


# What is frozen --------------------------------------------------------------------------------------------------


def backward_nodes(loss) -> list[str]:
    """Names of all steps of the backward pass."""
    seen, waiting = {}, [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen[node] = node.name()
            waiting += [child for child, _ in node.next_functions]
    return list(seen.values())


def test_a_frozen_conv_encoder_spends_no_time_in_the_backward_pass(make_tiny):
    model = make_tiny(SSLWav2Vec2ForCTC, vocab_size=7).train()
    speech = dict(input_values=torch.randn(1, 4_000), labels=torch.tensor([[3, 4]]))
    needed = []
    model.base_model.feature_extractor.register_forward_hook(lambda *call: needed.append(call[-1].requires_grad))
    model(**speech)
    model.freeze_feature_encoder()
    nodes = backward_nodes(model(**speech).loss)
    assert needed == [True, False]
    assert sum("Conv" in node for node in nodes) == 1  # the positional one, by torch or as products
    assert "ScaleGradientBackward" not in nodes


def test_the_head_learns_alone_until_the_encoder_thaws(make_tiny):
    model = make_tiny(SSLWav2Vec2ForCTC, vocab_size=7).train()
    model.thaw_update = 2
    speech = dict(input_values=torch.randn(1, 4_000), labels=torch.tensor([[3, 4]]))
    for update in range(4):
        model.set_update(update)
        model.zero_grad()
        model(**speech).loss.backward()
        assert model.lm_head.weight.grad is not None
        assert (model.base_model.encoder.layer_norm.weight.grad is not None) == (update >= 2)


def test_a_mix_of_layers_starts_as_their_mean_learns_with_the_head_and_is_refused_where_stock_has_none(
    tiny_hubert, make_tiny, tmp_path
):
    tiny_hubert.save_pretrained(tmp_path)
    model = (
        SSLHubertForCTC.from_pretrained(tmp_path, ctc_layer_mix=True, vocab_size=8, final_dropout=0.0).double().eval()
    )
    audio = torch.randn(2, 8000, dtype=torch.float64)
    outputs = model(audio, output_hidden_states=True)
    mean = torch.stack(outputs.hidden_states).mean(0)
    torch.testing.assert_close(outputs.logits, model.lm_head(mean), rtol=1e-10, atol=1e-10)

    model.train().set_update(0)
    model.thaw_update, model.encoder_learns = 10, False  # the encoder rests: head and weights learn
    model(audio, labels=torch.tensor([[3, 4], [5, -100]])).loss.backward()
    learning = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert learning == {"layer_weights", "lm_head.weight", "lm_head.bias"} and model.layer_weights.grad.abs().min() > 0

    args = SpeechCTCTrainingArguments(
        tmp_path,
        learning_rate=1e-3,
        head_learning_rate=1e-2,
        use_cpu=True,
        eval_strategy="no",
        load_best_model_at_end=False,
    )
    processor = make_processor(["abcde"])
    assert len(processor.tokenizer) == 8
    optimizer = SpeechCTCTrainer(model.float(), args, processing_class=processor).create_optimizer()
    fast = {id(weight) for group in optimizer.param_groups if group["lr"] == 1e-2 for weight in group["params"]}
    assert fast == {id(weight) for name, weight in model.named_parameters() if name in learning}
    with pytest.raises(ValueError, match="Stock CTC models have no ctc_layer_mix"):
        to_transformers(model)
    assert not any("layer_weights" in name for name in make_tiny(SSLHubertForCTC).state_dict())


@pytest.mark.parametrize("writes", [True, False])
def test_one_process_writes_how_transcripts_are_spelt(writes, make_tiny, tmp_path, monkeypatch):
    args = SpeechCTCTrainingArguments(
        output_dir=str(tmp_path / "run"), use_cpu=True, eval_strategy="no", load_best_model_at_end=False
    )
    model, processor = make_tiny(SSLWav2Vec2ForCTC, vocab_size=8), make_processor(["abcde"])
    trainer = SpeechCTCTrainer(model.float(), args, processing_class=processor)
    monkeypatch.setattr(SpeechCTCTrainingArguments, "should_save", writes)
    trainer.save_model(str(tmp_path / "model"))
    written = [name for name in ("text_normalization.json", "vocab.json") if (tmp_path / "model" / name).exists()]
    assert len(written) == (2 if writes else 0)


@pytest.mark.parametrize(
    ("model_class", "settings", "thaw_update", "lost"),
    [
        (SSLWav2Vec2ForCTC, dict(layerdrop=0.1), 2, "layer drop takes .* and the encoder is not frozen until update 2"),
        (SSLWav2Vec2ForPreTraining, dict(layerdrop=0.0), 0, "so the Gumbel temperature stays 2"),
    ],
)
def test_a_model_that_is_trained_without_set_update_says_once_what_does_not_happen(
    model_class, settings, thaw_update, lost, make_tiny, caplog
):
    models = [make_tiny(model_class, vocab_size=7, **settings).train() for _ in range(3)]
    models[1].set_update(0)
    models[2].eval()
    for model in models:
        model.thaw_update = thaw_update
        model(torch.randn(1, 4_000)), model(torch.randn(1, 4_000))
    (warning,) = caplog.messages
    assert re.search(lost, warning)


# Batches ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def config():
    return SSLWav2Vec2Config(**TINY, **MASKS, vocab_size=5)


def test_masks_are_those_of_the_utterance_in_this_epoch(config):
    rows = rows_of(1.0, 2.0, 0.9)
    collator = CTCCollator(config, normalize=True, seed=3)
    together, alone = collator(rows), collator(rows[1:2])
    frames = alone["mask_time_indices"].shape[1]
    assert torch.equal(together["mask_time_indices"][1, :frames], alone["mask_time_indices"][0])
    assert torch.equal(together["mask_feature_indices"][1], alone["mask_feature_indices"][0])
    assert not together["mask_time_indices"][0, 49:].any()  # never on padding
    collator.set_epoch(1)
    assert not torch.equal(collator(rows)["mask_time_indices"], together["mask_time_indices"])
    assert together["labels"].tolist() == [[3, 4, 2], [4, 2, -100], [3, 4, 2]]


def test_masks_cover_the_share_the_config_asks_for(config):
    config.mask_time_prob, config.mask_feature_prob = 0.5, 0.25
    batch = CTCCollator(config, normalize=False)(rows_of(*[3.0] * 60))
    # Spans overlap: 1 - (1 - span / frames) ** spans of them.
    assert batch["mask_time_indices"].float().mean().item() == pytest.approx(1 - math.exp(-0.5), abs=0.05)
    assert batch["mask_feature_indices"].float().mean().item() == pytest.approx(1 - (1 - 4 / 29) ** 2, abs=0.05)


def test_evaluation_hides_nothing_and_brings_the_transcripts(config):
    batch = CTCCollator(config, normalize=True, evaluation=True)(rows_of(1.0, 1.0))
    assert not {"mask_time_indices", "mask_feature_indices", "attention_mask"} & set(batch)
    assert batch["texts"] == ["ab", "ab"]


def test_audio_shorter_than_a_span_stays_whole(config):
    batch = CTCCollator(config, normalize=True)(rows_of(0.06, 1.0))
    assert not batch["mask_time_indices"][0].any() and batch["mask_time_indices"][1].any()


def test_no_row_is_hidden_altogether_in_fine_tuning(config):
    config.mask_time_prob, config.mask_time_length = 0.65, 10
    rows = rows_of(*[(400 + (frames - 1) * 320) / 16_000 for frames in range(8, 28) for _ in range(10)])
    batch = CTCCollator(config, normalize=False)(rows)
    frames = [(len(row["samples"]) - 400) // 320 + 1 for row in rows]
    for mask, count in zip(batch["mask_time_indices"], frames):
        assert mask.any() == (count > 10)
        assert not mask[:count].all()


def test_a_row_that_turns_out_unusable_has_no_labels_and_is_named(config):
    rows = rows_of(1.0, 1.0)
    rows[0]["audio"] = {"bytes": b"this is no audio", "path": None}
    del rows[0]["samples"]
    batch = CTCCollator(config, normalize=True)(rows)
    assert (batch["labels"][0] == -100).all() and (batch["input_values"][0] == 0).all()
    assert [name for name, _ in batch["skipped_rows"]] == ["row-0"]


def test_labels_beyond_the_head_and_spans_wider_than_the_model_are_errors(config):
    with pytest.raises(ValueError, match="A label is 5 but the head has 5 outputs"):
        CTCCollator(config, normalize=True)(rows_of(1.0, labels=[(3, 5)]))
    config.mask_feature_length = 64
    with pytest.raises(ValueError, match="spans 64 channels but the model has 32"):
        CTCCollator(config, normalize=True)


def test_the_learning_rate_has_the_three_stages_of_the_paper():
    stages = (1_300, 5_200, 6_500)  # .1, .4 and .5 of 13,000
    rates = [tri_stage(update, stages, 0.01, 0.05) for update in range(13_001)]
    assert rates[0] == 0.01
    assert rates[650] == pytest.approx(0.505)
    assert rates[1_300] == rates[6_500] == 1.0
    assert rates[6_500 + 3_250] == pytest.approx(0.05**0.5)  # halfway down an exponential
    assert rates[13_000] == pytest.approx(0.05)
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 1e-3  # no jumps


def test_speeds_follow_from_seed_epoch_and_row_and_leave_room_for_the_labels(config):
    rows = rows_of(*[1.0] * 40)
    batches = {}
    for epoch in (0, 1):
        collators = [CTCCollator(config, speeds, normalize=False, seed=3) for speeds in ([0.9, 1, 1.1], ())]
        for collator in collators:
            collator.set_epoch(epoch)
        batches[epoch] = [collators[0].utterance(row, [])[0] for row in rows]
        again = [collators[0].utterance(row, [])[0] for row in reversed(rows)]  # in whatever order they come
        assert all(np.array_equal(one, other) for one, other in zip(batches[epoch], reversed(again)))
        assert all(len(collators[1].utterance(row, [])[0]) == 16_000 for row in rows)
    lengths = [[len(wave) for wave in batches[epoch]] for epoch in (0, 1)]
    assert {round(16_000 / length, 1) for length in lengths[0]} == {0.9, 1.0, 1.1} and lengths[0] != lengths[1]

    # A tone of 1,000 Hz becomes one of 1,100 Hz at 1.1 times the speed.
    tone = (np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000) * 10_000).astype(np.int16)
    (fast, _) = CTCCollator(config, [1.1], normalize=False).utterance(rows[0] | {"samples": tone}, [])
    assert np.abs(np.fft.rfft(fast, 160_000)).argmax() / 10 == pytest.approx(1100, abs=1)

    full = rows_of(1.0, labels=([2, 3] * 24 + [2],))  # 49 labels in 49 frames
    assert len(CTCCollator(config, [1.1], normalize=False).utterance(full[0], [])[0]) == 16_000
    assert CTCCollator(config, [1.1], normalize=False, evaluation=True).speeds == []
