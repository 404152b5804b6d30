"""LoRA (Hu et al. 2021) through PEFT: small adapters in a frozen encoder and the whole head are trained."""

from __future__ import annotations

import copy
import importlib.util
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from hf_ssl_speech.models.heads import SSLSpeechForCTC

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_FOLDER = "adapter"
# The paper adapts queries and values; the names are the same in all encoders, ours and stock.
DEFAULTS = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]}


def add_lora(model: SSLSpeechForCTC, **settings: Any) -> PeftModel:
    """Adds adapters to a CTC model; after this only the adapters and the head are trained.

    Args:
        model: The model, which is changed.
        settings: Arguments of `peft.LoraConfig`, such as `r`, `lora_alpha`, `lora_dropout` and `target_modules`; by
            default rank 8 and alpha 16 on the queries and values of every layer, and a head that is trained and saved.
    Returns:
        The model in PEFT's wrapper, for `SpeechCTCTrainer`. `merge_lora` turns it into a model without adapters.
    Raises:
        ImportError: If the extra `lora` is missing.
        ValueError: If PEFT has no such setting, the model no such modules, or its head a mix of layers to learn.
    """
    if model.config.ctc_layer_mix:
        raise ValueError("Adapters leave all weights frozen but the head's: with LoRA, leave out ctc_layer_mix.")
    if importlib.util.find_spec("peft") is None:
        raise ImportError("Adapters need peft: pip install peft")
    from peft import LoraConfig, get_peft_model

    try:
        config = LoraConfig(**{**DEFAULTS, **settings})
    except TypeError as error:
        raise ValueError(f"PEFT does not have these settings of LoRA: {error}.") from error
    return get_peft_model(model, config)


def has_adapters(model: nn.Module) -> bool:
    """Whether a model is in PEFT's wrapper."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def bare_model(model: nn.Module) -> nn.Module:
    """The model inside PEFT's wrapper, whose attributes its `forward` reads; any other model as it is."""
    return model.get_base_model() if has_adapters(model) else model


def merge_lora(model: PeftModel) -> PreTrainedModel:
    """A copy of the model whose weights hold the adapters: it needs no PEFT, and gives the same to rounding."""
    return copy.deepcopy(model).merge_and_unload()


def lora_settings(model: nn.Module) -> dict[str, Any] | None:
    """The adapters' settings, for records; None for a model without any."""
    if not has_adapters(model):
        return None
    config = model.peft_config["default"]
    lists = {name: sorted(getattr(config, name) or ()) for name in ("target_modules", "modules_to_save")}
    return {name: getattr(config, name) for name in ("r", "lora_alpha", "lora_dropout")} | lists
