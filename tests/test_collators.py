"""Batches: what a row contributes does not depend on its company."""

import numpy as np
import pytest
import torch

from hf_ssl_speech import HubertPretrainingCollator, SSLHubertConfig, SSLWav2Vec2Config, Wav2Vec2PretrainingCollator
from hf_ssl_speech.models.frames import num_frames

WAV2VEC2 = SSLWav2Vec2Config.preset("tiny", num_negatives=7)


def row(index: int, seconds: float, **columns) -> dict:
    samples = np.random.default_rng(index).integers(-9000, 9000, int(seconds * 16_000), dtype=np.int16)
    return {"sample_id": index, "name": f"row-{index}", "samples": samples, "num_samples": len(samples), **columns}


def wav2vec2_collator(**settings):
    return Wav2Vec2PretrainingCollator(WAV2VEC2, **{"normalize": False, "seed": 3, **settings})


def of_row(batch: dict, index: int) -> dict:
    """What belongs to one row, without padding."""
    masked = batch["masked_positions"][index]
    masked = masked[masked >= 0]
    samples = batch["attention_mask"][index].sum() if "attention_mask" in batch else batch["input_values"].shape[1]
    return {
        "waveform": batch["input_values"][index][:samples],
        "masked": masked,
        "negatives": batch["sampled_negative_indices"][index][: len(masked)],
        "seed": batch["gumbel_seeds"][index],
    }


def test_a_row_gives_the_same_in_any_batch():
    rows = [row(1, 3.0), row(2, 2.0), row(3, 4.1)]
    together = wav2vec2_collator(max_seconds=2.5)(rows)
    for index, one in enumerate(rows):
        alone = of_row(wav2vec2_collator(max_seconds=2.5)([one]), 0)
        for name, value in of_row(together, index).items():
            assert torch.equal(value, alone[name]), name


def test_masks_crops_and_negatives_change_with_epoch_and_seed_but_not_in_evaluation():
    rows = [row(1, 3.0)]
    collator = wav2vec2_collator(max_seconds=2.5)
    first = of_row(collator(rows), 0)
    collator.set_epoch(1)
    second = of_row(collator(rows), 0)
    assert not torch.equal(first["waveform"], second["waveform"])
    assert not torch.equal(first["masked"], second["masked"])
    assert first["seed"] != second["seed"]
    collator.set_epoch(0)
    assert torch.equal(of_row(collator(rows), 0)["masked"], first["masked"])

    evaluation = wav2vec2_collator(max_seconds=2.5, evaluation=True)
    before = of_row(evaluation(rows), 0)
    evaluation.set_epoch(5)
    assert torch.equal(of_row(evaluation(rows), 0)["masked"], before["masked"])
    assert torch.equal(before["waveform"], torch.from_numpy(rows[0]["samples"][:40_000] / 32_768).float())


def test_labels_masks_and_positions_say_the_same():
    batch = wav2vec2_collator()([row(1, 2.0), row(2, 3.3)])
    frames = WAV2VEC2.conv_layers and 164  # of 3.3 s
    assert batch["labels"].shape == batch["mask_time_indices"].shape == (2, frames)
    assert torch.equal(batch["labels"] == 0, batch["mask_time_indices"])
    for index in range(2):
        assert torch.equal(of_row(batch, index)["masked"], batch["mask_time_indices"][index].nonzero()[:, 0])
    assert not batch["mask_time_indices"][0, 99:].any()  # 2 s make 99 frames: padding is never masked
    assert (batch["labels"][0, 99:] == -100).all()


def test_negatives_point_at_masked_frames_of_the_same_row():
    batch = wav2vec2_collator()([row(1, 2.0), row(2, 3.3)])
    for index in range(2):
        one = of_row(batch, index)
        assert one["negatives"].max() < len(one["masked"])
        assert not (one["negatives"] == torch.arange(len(one["masked"]))[:, None]).any()


def test_equal_lengths_need_no_attention_mask():
    assert "attention_mask" not in wav2vec2_collator()([row(1, 2.0), row(2, 2.0)])


def test_rows_cropped_to_a_multiple_of_frames_need_no_padding_and_crops_change_with_the_epoch():
    rows = [row(1, 3.3), row(2, 3.4), row(3, 9.0)]
    collator = wav2vec2_collator(max_seconds=3.3, crop_to_frames=16)
    batch = collator(rows)
    assert "attention_mask" not in batch
    assert batch["labels"].shape == batch["mask_time_indices"].shape == (3, 160)
    assert num_frames(batch["input_values"].shape[1], WAV2VEC2.conv_layers) == 160
    alone = wav2vec2_collator(max_seconds=3.3, crop_to_frames=16)(rows[1:2])
    assert torch.equal(batch["input_values"][1:2], alone["input_values"])
    collator.set_epoch(1)
    assert not torch.equal(collator(rows)["input_values"], batch["input_values"])
    evaluation = wav2vec2_collator(max_seconds=3.3, crop_to_frames=16, evaluation=True)(rows)
    assert evaluation["input_values"].shape[1] == round(3.3 * 16_000), "an evaluation hears all there is"


def test_normalised_rows_have_zero_mean_and_unit_variance_whatever_their_padding():
    batch = wav2vec2_collator(normalize=True)([row(1, 2.0), row(2, 3.3)])
    waveform = of_row(batch, 0)["waveform"]
    assert waveform.mean().abs() < 1e-5
    assert waveform.std() == pytest.approx(1, abs=1e-3)


def test_unusable_audio_becomes_silence_that_predicts_nothing_and_is_named():
    broken = {
        "sample_id": 9,
        "name": "broken.wav",
        "audio": {"bytes": b"no audio", "path": None},
        "num_samples": 40_000,
    }
    batch = wav2vec2_collator()([row(1, 2.5), broken])
    assert [name for name, reason in batch["skipped_rows"]] == ["broken.wav"]
    assert (batch["input_values"][1] == 0).all() and (batch["labels"][1] == -100).all()
    assert (batch["masked_positions"][1] == -1).all()


def test_audio_no_longer_than_a_span_predicts_nothing_and_is_named():
    config = SSLWav2Vec2Config.preset("tiny", mask_time_length=10)
    collator = Wav2Vec2PretrainingCollator(config, normalize=False)
    ten, eleven = row(1, (400 + 9 * 320) / 16_000), row(2, (400 + 10 * 320) / 16_000)
    batch = collator([ten, eleven])
    assert (batch["labels"][0] == -100).all() and not batch["mask_time_indices"][0].any()
    assert batch["mask_time_indices"][1].sum() == 10
    ((name, reason),) = batch["skipped_rows"]
    assert name == "row-1" and "too short to be masked: 10 frames" in reason


def test_units_are_cropped_with_their_audio():
    config = SSLHubertConfig.preset("tiny", num_units=[200])
    one = row(1, 4.0, units=np.arange(199))
    collator = HubertPretrainingCollator(config, normalize=False, max_seconds=2.0, seed=1)
    batch = collator([one])
    predicted = batch["labels"][0][batch["mask_time_indices"][0]]
    first = int(predicted[0] - batch["masked_positions"][0, 0])
    assert first > 0
    assert torch.equal(predicted, first + batch["masked_positions"][0])
    assert torch.equal(
        batch["input_values"][0], torch.from_numpy(one["samples"][first * 320 :][:32_000] / 32_768).float()
    )


def test_unmasked_frames_have_units_only_if_they_have_a_weight():
    one = row(1, 2.0, units=np.zeros(99, dtype=int))
    for weight, predicted in ((0.0, None), (0.5, 99)):
        config = SSLHubertConfig.preset("tiny", unmasked_loss_weight=weight)
        batch = HubertPretrainingCollator(config, normalize=False)([one])
        assert (batch["labels"] >= 0).sum() == (predicted or batch["mask_time_indices"].sum())


def test_several_unit_sets_stand_side_by_side():
    config = SSLHubertConfig.preset("tiny", num_units=[5, 7])
    one = row(1, 2.0, coarse=np.full(99, 4), fine=np.full(99, 6))
    batch = HubertPretrainingCollator(config, normalize=False, unit_columns=["coarse", "fine"])([one])
    assert batch["labels"].shape == (1, 99, 2)
    assert set(map(tuple, batch["labels"][0].tolist())) == {(4, 6), (-100, -100)}


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (np.zeros(198, dtype=int), "Row row-1 has 198 units in 'units', but its audio makes 99 frames"),
        (np.full(99, 100), "the unit 100 in 'units', but the model predicts 100: 0 to 99"),
    ],
)
def test_units_that_do_not_fit_are_an_error_with_the_row(units, message):
    collator = HubertPretrainingCollator(SSLHubertConfig.preset("tiny"), normalize=False)
    with pytest.raises(ValueError, match=message):
        collator([row(1, 2.0, units=units)])
