"""Makes transformers' Auto classes know our model types, without importing either before it is needed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

AUTO = "transformers.models.auto"


def register_auto_classes():
    """Registers our classes with each module of Auto classes: now if it is imported already, else when it is.

    `import hf_ssl_speech` is all that `AutoModel.from_pretrained` and its kin need. Importing the models for it at once
    would take seconds, which a command that only prints its help would have to wait for too.
    """
    for name, register in _REGISTER.items():
        module = sys.modules.get(f"{AUTO}.{name}")
        if module is not None:
            register(module)
    sys.meta_path.insert(0, _RegisterOnImport())


class _RegisterOnImport(MetaPathFinder):
    """Lets Python find the modules of Auto classes as ever, and registers our classes after each has been executed."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        package, _, module_name = name.rpartition(".")
        if package != AUTO or module_name not in _REGISTER:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType):
                execute(module)
                _REGISTER[module_name](module)

            spec.loader.exec_module = execute_and_register
        return spec


def _configs() -> list[type]:
    configuration = importlib.import_module("hf_ssl_speech.models.configuration")
    return [configuration.SSLWav2Vec2Config, configuration.SSLHubertConfig]


def _register_configs(module: ModuleType):
    for config in _configs():
        module.AutoConfig.register(config.model_type, config)


def _register_models(module: ModuleType):
    from hf_ssl_speech.models.classes import model_class

    for config in _configs():
        for auto in ("AutoModel", "AutoModelForPreTraining", "AutoModelForCTC", "AutoModelForAudioClassification"):
            getattr(module, auto).register(config, model_class(config, auto))


def _register_feature_extractors(module: ModuleType):
    from transformers import Wav2Vec2FeatureExtractor

    for config in _configs():
        module.AutoFeatureExtractor.register(config, Wav2Vec2FeatureExtractor)


def _register_tokenizers(module: ModuleType):
    from transformers import Wav2Vec2CTCTokenizer

    for config in _configs():
        module.AutoTokenizer.register(config, slow_tokenizer_class=Wav2Vec2CTCTokenizer)


def _register_processors(module: ModuleType):
    from transformers import Wav2Vec2Processor

    for config in _configs():
        module.AutoProcessor.register(config, Wav2Vec2Processor)


_REGISTER: dict[str, Callable[[ModuleType], None]] = {
    "configuration_auto": _register_configs,
    "modeling_auto": _register_models,
    "feature_extraction_auto": _register_feature_extractors,
    "tokenization_auto": _register_tokenizers,
    "processing_auto": _register_processors,
}
