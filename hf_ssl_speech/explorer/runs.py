"""The runs that a page tells of: their models, their records, and their data in a page's words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from hf_ssl_speech.models.classes import load_config
from hf_ssl_speech.models.pretraining import SSLSpeechForPreTraining
from hf_ssl_speech.records import Record, read_record

Pretraining = TypeVar("Pretraining", bound=SSLSpeechForPreTraining)


def load_pretraining(folder: str, model_class: type[Pretraining], advice: str) -> Pretraining:
    """The model of a pretraining, with its head.

    Args:
        advice: What to give instead, for the message.
    Raises:
        ValueError: If the folder holds another model.
    """
    config = load_config(folder)
    architectures = config.architectures or []
    if not isinstance(config, model_class.config_class) or model_class.__name__ not in architectures:
        raise ValueError(
            f"{folder} holds {', '.join(architectures) or config.model_type}; expected a "
            f"{model_class.config_class.method} pretraining: {advice}"
        )
    return model_class.from_pretrained(folder, dtype=torch.float32).eval()


def record_of(run: str, told: str) -> Record:
    """The record of a run.

    Args:
        told: What is read in it, for the message.
    Raises:
        ValueError: If there is none.
    """
    record = read_record(run)
    if record is None:
        raise ValueError(f"{run} has no run.json, which tells {told}: give a run's folder.")
    return record


def run_facts(run: str, record: Record | None) -> dict[str, Any]:
    """Name and size of a run, and what it heard."""
    known = record or {}
    return {"name": Path(run).name, **{name: known.get(name) for name in ("updates", "hours_seen", "parameters")}}


def short_names(sources: str | Sequence[str]) -> str:
    """Sources of data as a reader knows them: the last folder and the name, without machine, pattern and ending."""
    sources = [sources] if isinstance(sources, str) else sources
    names = ["/".join(Path(source).parts[-2:]) for source in sources]
    return ", ".join(dict.fromkeys(re.sub(r"(-\d{5}-of-\d{5})?(\*.*|\.\w+)?$", "", name) for name in names))
