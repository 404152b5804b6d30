"""Makes `AutoConfig` know our model types, without importing either before it is needed."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

AUTO_CONFIG = "transformers.models.auto.configuration_auto"


def register_configs():
    """Registers our configurations with `AutoConfig`: now if it is imported already, otherwise as soon as it is.

    `import hf_ssl_speech` is all that `AutoModel.from_pretrained` and its kin need: they ask `AutoConfig` first, and
    the first of our configurations registers the models (see `classes.py`). Importing the models at once would take
    seconds, and a command that only prints its help would have to wait for that too.
    """
    if AUTO_CONFIG in sys.modules:
        _register(sys.modules[AUTO_CONFIG])
    else:
        sys.meta_path.insert(0, _RegisterOnImport())


class _RegisterOnImport(MetaPathFinder):
    """Lets Python find the module of `AutoConfig` as usual, and registers our configurations once it is executed."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name != AUTO_CONFIG:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType):
                execute(module)
                _register(module)

            spec.loader.exec_module = execute_and_register
        return spec


def _register(module: ModuleType):
    from hf_ssl_speech.models.configuration import SSLHubertConfig, SSLWav2Vec2Config

    for config in (SSLWav2Vec2Config, SSLHubertConfig):
        module.AutoConfig.register(config.model_type, config)
