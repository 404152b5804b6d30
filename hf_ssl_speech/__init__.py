"""Self-supervised pretraining of speech models, wav2vec 2.0 and HuBERT, inside the Hugging Face ecosystem."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    AutoModelForPreTraining,
    AutoProcessor,
    AutoTokenizer,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from hf_ssl_speech.data.batching import DurationBatchSampler
from hf_ssl_speech.data.collators import HubertPretrainingCollator, Wav2Vec2PretrainingCollator
from hf_ssl_speech.data.preparing import prepare_speech, prepare_stream
from hf_ssl_speech.data.sources import load_speech
from hf_ssl_speech.hub.cards import create_model_card
from hf_ssl_speech.hub.exchange import from_torchaudio, from_transformers, to_transformers
from hf_ssl_speech.hub.publishing import push_to_hub
from hf_ssl_speech.models.classes import model_class
from hf_ssl_speech.models.configuration import SSLHubertConfig, SSLWav2Vec2Config
from hf_ssl_speech.models.encoder import SSLHubertModel, SSLWav2Vec2Model
from hf_ssl_speech.models.heads import (
    SSLHubertForCTC,
    SSLHubertForSequenceClassification,
    SSLWav2Vec2ForCTC,
    SSLWav2Vec2ForSequenceClassification,
)
from hf_ssl_speech.models.pretraining import SSLHubertForPreTraining, SSLWav2Vec2ForPreTraining
from hf_ssl_speech.recognition.alignment import add_alignment
from hf_ssl_speech.recognition.ctc_collator import CTCCollator
from hf_ssl_speech.recognition.decoding import BeamDecoder, BeamSettings, GreedyDecoder
from hf_ssl_speech.recognition.metrics import CharacterErrorRate, WordErrorRate
from hf_ssl_speech.recognition.text import TextNormalization, add_labels, make_processor
from hf_ssl_speech.recognition.transcription import load_recognizer, transcribe
from hf_ssl_speech.training.arguments import (
    SpeechCTCTrainingArguments,
    SpeechDataArguments,
    SpeechModelArguments,
    SpeechPreTrainingArguments,
    SpeechTextArguments,
)
from hf_ssl_speech.training.ctc_trainer import SpeechCTCTrainer
from hf_ssl_speech.training.trainer import SpeechPreTrainer
from hf_ssl_speech.units.kmeans_units import KMeansUnits
from hf_ssl_speech.units.labelling import add_units
from hf_ssl_speech.units.quality import UnitQuality

__version__ = "0.1.0"

__all__ = [
    "BeamDecoder",
    "BeamSettings",
    "CTCCollator",
    "CharacterErrorRate",
    "DurationBatchSampler",
    "GreedyDecoder",
    "HubertPretrainingCollator",
    "KMeansUnits",
    "SSLHubertConfig",
    "SSLHubertForCTC",
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
    "SpeechDataArguments",
    "SpeechModelArguments",
    "SpeechPreTrainer",
    "SpeechPreTrainingArguments",
    "SpeechTextArguments",
    "TextNormalization",
    "UnitQuality",
    "Wav2Vec2PretrainingCollator",
    "WordErrorRate",
    "add_alignment",
    "add_labels",
    "add_units",
    "create_model_card",
    "from_torchaudio",
    "from_transformers",
    "load_recognizer",
    "load_speech",
    "make_processor",
    "prepare_speech",
    "prepare_stream",
    "push_to_hub",
    "to_transformers",
    "transcribe",
]


def _register_auto_classes():
    """Makes `AutoModel.from_pretrained` and its kin know our model types."""
    for config in (SSLWav2Vec2Config, SSLHubertConfig):
        AutoConfig.register(config.model_type, config)
        for auto in (AutoModel, AutoModelForPreTraining, AutoModelForCTC, AutoModelForAudioClassification):
            auto.register(config, model_class(config, auto.__name__))
        AutoFeatureExtractor.register(config, Wav2Vec2FeatureExtractor)
        AutoTokenizer.register(config, slow_tokenizer_class=Wav2Vec2CTCTokenizer)
        AutoProcessor.register(config, Wav2Vec2Processor)


_register_auto_classes()
