"""Tables of the class for each objective and task, here and in transformers."""

from __future__ import annotations

import os
from pathlib import Path

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

from hf_ssl_speech.models import distillation, encoder, heads, pretraining
from hf_ssl_speech.models.configuration import SSLHubertConfig, SSLSpeechConfig, SSLWav2Vec2Config
from hf_ssl_speech.models.encoder import SSLSpeechPreTrainedModel

# By what `SpeechModelArguments.objective` calls them.
CONFIGS: dict[str, type[SSLSpeechConfig]] = {
    each.stock_model_type: each for each in (SSLWav2Vec2Config, SSLHubertConfig)
}
CLASSES: dict[str, type[SSLSpeechPreTrainedModel]] = {
    each.__name__: each
    for each in (
        encoder.SSLWav2Vec2Model,
        pretraining.SSLWav2Vec2ForPreTraining,
        heads.SSLWav2Vec2ForCTC,
        heads.SSLWav2Vec2ForSequenceClassification,
        encoder.SSLHubertModel,
        pretraining.SSLHubertForPreTraining,
        distillation.SSLHubertForDistillation,
        heads.SSLHubertForCTC,
        heads.SSLHubertForSequenceClassification,
    )
}
# Our classes are named after stock's, which has none for the pretraining of HuBERT.
STOCK_CLASSES: dict[type[SSLSpeechPreTrainedModel], type[PreTrainedModel]] = {
    ours: getattr(transformers, name.removeprefix("SSL"))
    for name, ours in CLASSES.items()
    if hasattr(transformers, name.removeprefix("SSL"))
}


def load_config(source: str | os.PathLike) -> PreTrainedConfig:
    """The configuration of a checkpoint, ours or another, in a folder or on the Hub.

    Raises:
        OSError: If there is none.
    """
    check_folder(source)
    path = Path(source)
    if path.is_dir() and not any((path / name).exists() for name in (CONFIG_NAME, ADAPTER_CONFIG_NAME)):
        inside = sorted(path.glob(f"*/{CONFIG_NAME}"), key=lambda file: file.stat().st_mtime)
        hint = f"; {inside[-1].parent} does" if inside else ""
        raise FileNotFoundError(f"{source} holds no model, as it has no {CONFIG_NAME}{hint}.")
    return AutoConfig.from_pretrained(source)


def check_folder(source: str | os.PathLike):
    """Raises an OSError where a name can only mean a folder, and there is none.

    Without a connection, it would take half a minute to ask the Hub for it.
    """
    path = Path(source)
    is_id = len(path.parts) == 2 and str(source)[:1] not in (".", "~", os.sep)
    if not path.exists() and (not is_id or path.parent.is_dir()):
        raise FileNotFoundError(f"There is no folder {source}.")


def config_class_of(model_type: str | None) -> type[SSLSpeechConfig] | None:
    """The configuration class of a model type, ours (`ssl-hubert`) or stock (`hubert`); None for other models."""
    return next((each for each in CONFIGS.values() if model_type in (each.model_type, each.stock_model_type)), None)


def model_class(config_class: type[SSLSpeechConfig], auto: str) -> type[SSLSpeechPreTrainedModel]:
    """Our class that an Auto class such as `AutoModelForCTC` gives for a configuration class."""
    return CLASSES[config_class.auto_classes()[auto]]


def _register():
    """Registers our classes with transformers' Auto classes, and wherever it lists its stock speech models."""
    for config in CONFIGS.values():
        for auto in config.auto_classes().keys() - {"AutoConfig"}:
            getattr(transformers, auto).register(config, model_class(config, auto))
        transformers.AutoFeatureExtractor.register(config, transformers.Wav2Vec2FeatureExtractor)
        transformers.AutoTokenizer.register(config, slow_tokenizer_class=transformers.Wav2Vec2CTCTokenizer)
        transformers.AutoProcessor.register(config, transformers.Wav2Vec2Processor)


_register()
