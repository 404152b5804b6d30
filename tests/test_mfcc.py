"""MFCC against torchaudio's Kaldi port, and their frame arithmetic."""

import pyarrow.parquet
import pytest
import torch
import torchaudio

from hf_ssl_speech.audio import read_audio
from hf_ssl_speech.data.mfcc import _tables, mfcc_features, num_mfcc_frames

# Of float32: a spectrum is exact to 2 ** -24 of its largest value, so that the logarithm of a band that is 1,000 times
# weaker is exact to 1e-4; liftering and the sum over bands make up to ten times as much of that.
ROUNDING = 1e-3


def torchaudio_features(waveform):
    """The 39 features as HuBERT's own recipe makes them."""
    mfcc = torchaudio.compliance.kaldi.mfcc(waveform[None], sample_frequency=16000, use_energy=False).T
    deltas = torchaudio.functional.compute_deltas(mfcc)
    return torch.cat([mfcc, deltas, torchaudio.functional.compute_deltas(deltas)]).T


def noise(num_samples, seed=0):
    """Noise that swells and fades, with an offset."""
    generator = torch.Generator().manual_seed(seed)
    loudness = torch.linspace(0, 40, num_samples).sin().square()
    return 0.3 * loudness * torch.randn(num_samples, generator=generator) + 0.02


@pytest.mark.parametrize("num_samples", [400, 559, 560, 720, 16_000, 200_123])
def test_features_equal_those_of_torchaudio(num_samples):
    waveform = noise(num_samples)
    features = mfcc_features(waveform)
    assert features.shape == (num_mfcc_frames(num_samples), 39)
    assert torch.allclose(features, torchaudio_features(waveform), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_silence_and_a_click_give_the_features_of_torchaudio(level):
    waveform = torch.full((3_000,), level)
    assert torch.allclose(mfcc_features(waveform), torchaudio_features(waveform), rtol=0, atol=ROUNDING)
    waveform[1_000] += 0.4
    assert torch.allclose(mfcc_features(waveform), torchaudio_features(waveform), rtol=0, atol=ROUNDING)


def test_real_speech_gives_the_features_of_torchaudio(corpora):
    shard = next((corpora / "librispeech-mini").glob("validation-*"))
    for audio in pyarrow.parquet.read_table(shard, columns=["audio"])["audio"][:5].to_pylist():
        waveform = torch.from_numpy(read_audio(audio))
        assert torch.allclose(mfcc_features(waveform), torchaudio_features(waveform), rtol=0, atol=ROUNDING)


def test_a_batch_gives_each_row_what_the_row_gives_alone():
    batch = torch.stack([noise(50_000, seed) for seed in range(3)])
    assert torch.allclose(mfcc_features(batch), torch.stack([mfcc_features(row) for row in batch]), rtol=0, atol=1e-5)


def test_one_second_makes_98_frames_and_a_crop_of_250000_samples_1561():
    assert num_mfcc_frames(16_000) == 98
    assert num_mfcc_frames(250_000) == 1_561


def test_features_made_in_inference_mode_do_not_spoil_those_made_with_gradients():
    _tables.cache_clear()
    with torch.inference_mode():
        mfcc_features(noise(1_000))
    waveform = noise(1_000).requires_grad_()
    mfcc_features(waveform).sum().backward()
    assert waveform.grad.isfinite().all()


def test_features_keep_float32_under_autocast():
    waveform = noise(5_000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = mfcc_features(waveform)
    assert torch.equal(features, mfcc_features(waveform))


def test_an_audio_below_one_window_is_an_error_with_its_length():
    with pytest.raises(ValueError, match=r"399 samples.*400 samples"):
        mfcc_features(torch.zeros(399))


def test_a_waveform_with_channels_is_an_error_with_its_shape():
    with pytest.raises(ValueError, match=r"\(2, 1, 1000\)"):
        mfcc_features(torch.zeros(2, 1, 1_000))
