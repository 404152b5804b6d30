"""Self-supervised pretraining of speech models, wav2vec 2.0 and HuBERT, inside the Hugging Face ecosystem."""

import importlib
from typing import TYPE_CHECKING, Any

from hf_ssl_speech.models.registration import register_configs

if TYPE_CHECKING:
    from hf_ssl_speech.public import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The public names, imported on first use, so that the command's help need not wait for torch."""
    if name != "__all__" and name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("hf_ssl_speech.public"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__getattr__("__all__")])


register_configs()
