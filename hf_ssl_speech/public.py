"""The public names: what `from hf_ssl_speech import ...` gives."""

from hf_ssl_speech.audio import read_audio
from hf_ssl_speech.data.batching import DurationBatchSampler
from hf_ssl_speech.data.collators import HubertPretrainingCollator, Wav2Vec2PretrainingCollator
from hf_ssl_speech.data.features import HiddenFeatures, MfccFeatures
from hf_ssl_speech.data.mixing import mixed_stream
from hf_ssl_speech.data.preparing import prepare_speech, prepare_stream
from hf_ssl_speech.data.sources import load_speech
from hf_ssl_speech.data.voice import find_speech
from hf_ssl_speech.hub.cards import create_model_card
from hf_ssl_speech.hub.exchange import from_torchaudio, from_transformers, to_transformers
from hf_ssl_speech.hub.fairseq_files import fairseq_processor, from_fairseq
from hf_ssl_speech.hub.onnx_export import export_onnx
from hf_ssl_speech.hub.publishing import export_stock, push_to_hub
from hf_ssl_speech.models.configuration import SSLHubertConfig, SSLWav2Vec2Config
from hf_ssl_speech.models.distillation import SSLHubertForDistillation
from hf_ssl_speech.models.encoder import SSLHubertModel, SSLWav2Vec2Model
from hf_ssl_speech.models.heads import (
    SSLHubertForCTC,
    SSLHubertForSequenceClassification,
    SSLWav2Vec2ForCTC,
    SSLWav2Vec2ForSequenceClassification,
)
from hf_ssl_speech.models.pretraining import SSLHubertForPreTraining, SSLWav2Vec2ForPreTraining
from hf_ssl_speech.recognition.alignment import add_alignment, write_textgrid
from hf_ssl_speech.recognition.ctc_collator import CTCCollator
from hf_ssl_speech.recognition.decoding import BeamDecoder, BeamSettings, GreedyDecoder
from hf_ssl_speech.recognition.language_model import write_ngram
from hf_ssl_speech.recognition.metrics import CharacterErrorRate, WordErrorRate
from hf_ssl_speech.recognition.normalization import TextNormalization
from hf_ssl_speech.recognition.text import add_labels, make_processor
from hf_ssl_speech.recognition.transcription import load_recognizer, transcribe
from hf_ssl_speech.training.arguments import SpeechCTCTrainingArguments, SpeechPreTrainingArguments
from hf_ssl_speech.training.ctc_trainer import SpeechCTCTrainer
from hf_ssl_speech.training.distillation import SpeechDistiller, make_student
from hf_ssl_speech.training.lora import add_lora, merge_lora
from hf_ssl_speech.training.pretrainer import SpeechPreTrainer
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.labelling import add_units
from hf_ssl_speech.units.quality import UnitQuality

__all__ = [
    "BeamDecoder",
    "BeamSettings",
    "CTCCollator",
    "CharacterErrorRate",
    "DurationBatchSampler",
    "GreedyDecoder",
    "HiddenFeatures",
    "HubertPretrainingCollator",
    "KMeansUnits",
    "MfccFeatures",
    "SSLHubertConfig",
    "SSLHubertForCTC",
    "SSLHubertForDistillation",
    "SSLHubertForPreTraining",
    "SSLHubertForSequenceClassification",
    "SSLHubertModel",
    "SSLWav2Vec2Config",
    "SSLWav2Vec2ForCTC",
    "SSLWav2Vec2ForPreTraining",
    "SSLWav2Vec2ForSequenceClassification",
    "SSLWav2Vec2Model",
    "SpeechCTCTrainer",
    "SpeechCTCTrainingArguments",
    "SpeechDistiller",
    "SpeechPreTrainer",
    "SpeechPreTrainingArguments",
    "TextNormalization",
    "UnitQuality",
    "Wav2Vec2PretrainingCollator",
    "WordErrorRate",
    "add_alignment",
    "add_labels",
    "add_lora",
    "add_units",
    "create_model_card",
    "export_onnx",
    "export_stock",
    "fairseq_processor",
    "find_speech",
    "from_fairseq",
    "from_torchaudio",
    "from_transformers",
    "load_recognizer",
    "load_speech",
    "make_processor",
    "make_student",
    "merge_lora",
    "mixed_stream",
    "prepare_speech",
    "prepare_stream",
    "push_to_hub",
    "read_audio",
    "to_transformers",
    "transcribe",
    "write_ngram",
    "write_textgrid",
]
