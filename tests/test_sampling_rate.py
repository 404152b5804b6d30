"""A model of another sampling rate than 16 kHz is refused at the start, whatever it is wanted for."""

import re

import pytest
import torch
from conftest import tiny_model
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from hf_ssl_speech import (
    HiddenFeatures,
    KMeansUnits,
    SpeechCTCTrainer,
    SpeechCTCTrainingArguments,
    SpeechPreTrainer,
    SpeechPreTrainingArguments,
    SSLWav2Vec2ForCTC,
    SSLWav2Vec2ForPreTraining,
)
from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.recognition.text import make_processor
from hf_ssl_speech.recognition.transcription import load_recognizer

TELEPHONE = "trained at 8,000 Hz, but audio is read at 16,000 Hz"


@pytest.fixture(scope="module")
def extractor() -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(sampling_rate=8_000, do_normalize=True, return_attention_mask=True)


@pytest.fixture(scope="module")
def encoder(extractor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    tiny_model(SSLWav2Vec2ForPreTraining).save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def processor(extractor) -> Wav2Vec2Processor:
    return make_processor(["one two"], feature_extractor=extractor)


def test_as_a_start_and_as_a_teacher(encoder):
    for load in (lambda: feature_extractor_for(None, encoder), lambda: HiddenFeatures.from_pretrained(encoder, 1)):
        with pytest.raises(ValueError, match=f"{re.escape(str(encoder))} was {TELEPHONE}"):
            load()


def test_as_what_a_unit_set_is_made_with(encoder):
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(encoder)
    source = HiddenFeatures.from_pretrained(encoder, 1, device="cpu")
    centroids = torch.zeros(2, source.description.width)
    units = KMeansUnits(centroids, torch.ones(2), source.description, {})
    Wav2Vec2FeatureExtractor(sampling_rate=8_000, do_normalize=True).save_pretrained(encoder)
    with pytest.raises(ValueError, match=TELEPHONE):
        units.open_features(device="cpu")


def test_as_a_recogniser(processor, tmp_path):
    size = {"vocab_size": len(processor.tokenizer), "pad_token_id": processor.tokenizer.pad_token_id}
    tiny_model(SSLWav2Vec2ForCTC, **size).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=TELEPHONE):
        load_recognizer(tmp_path)


def test_in_python(extractor, processor, tmp_path):
    args = {"output_dir": tmp_path, "use_cpu": True}
    with pytest.raises(ValueError, match=TELEPHONE):
        SpeechPreTrainer(
            tiny_model(SSLWav2Vec2ForPreTraining), SpeechPreTrainingArguments(**args), processing_class=extractor
        )
    args = SpeechCTCTrainingArguments(**args, eval_strategy="no", load_best_model_at_end=False)
    model = tiny_model(SSLWav2Vec2ForCTC, vocab_size=len(processor.tokenizer))
    with pytest.raises(ValueError, match=TELEPHONE):
        SpeechCTCTrainer(model, args, processing_class=processor)
