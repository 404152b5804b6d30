"""The settings of a pretraining run, with the papers' as defaults."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

from hf_ssl_speech.training.callbacks import UnhealthyRun


@dataclass
class SpeechPreTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with batches counted in seconds, and the defaults of wav2vec 2.0 BASE.

    `per_device_train_batch_size` has no say: a device holds at most `batch_seconds` of (padded) audio at a time. Give
    `hours_per_update` to keep an update the same on any number of devices: accumulation follows from it.
    """

    batch_seconds: float = field(
        default=87.5, metadata={"help": "Most audio, padding included, that one device holds at a time, in seconds."}
    )
    hours_per_update: float | None = field(
        default=None,
        metadata={
            "help": "Audio per optimizer update over all devices, in hours. Sets gradient_accumulation_steps, and "
            "lowers batch_seconds so that the update comes out right."
        },
    )
    min_seconds: float = field(default=2.0, metadata={"help": "Shorter audio is skipped, named and counted."})
    max_seconds: float = field(default=15.6, metadata={"help": "Longer audio is cropped at a random place."})
    buffer_seconds: float = field(
        default=3600.0, metadata={"help": "Streaming: audio that is held back to be sorted by length and shuffled."}
    )

    learning_rate: float = 5e-4
    max_steps: int = 400_000
    warmup_steps: float = 32_000
    weight_decay: float = 0.01
    adam_beta2: float = 0.98
    adam_epsilon: float = 1e-6
    max_grad_norm: float = 0.0
    logging_steps: float = 100
    logging_first_step: bool = True
    save_total_limit: int | None = 2
    dataloader_num_workers: int = 2
    dataloader_persistent_workers: bool = True
    remove_unused_columns: bool = False
    # A NaN must stop the run (HealthCheck), not vanish from the curve.
    logging_nan_inf_filter: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.max_seconds > self.batch_seconds:
            raise ValueError(
                f"max_seconds is {self.max_seconds:g} but a batch holds {self.batch_seconds:g} s: raise batch_seconds, "
                "or crop shorter."
            )
        if self.min_seconds > self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds:g} is above max_seconds {self.max_seconds:g}.")
        if self.hours_per_update is not None:
            seconds_per_rank = self.hours_per_update * 3600 / self.world_size
            if seconds_per_rank < self.max_seconds:
                raise ValueError(
                    f"{self.hours_per_update:g} hours per update leave {seconds_per_rank:.1f} s for each of "
                    f"{self.world_size} devices, less than one utterance of {self.max_seconds:g} s: use fewer devices, "
                    "more hours per update, or crop shorter."
                )
            # Published hours are rounded: a thousandth too much shall not halve the batches.
            self.gradient_accumulation_steps = math.ceil(0.999 * seconds_per_rank / self.batch_seconds)
            self.batch_seconds = max(seconds_per_rank / self.gradient_accumulation_steps, self.max_seconds)
        if self.dataloader_num_workers == 0:
            self.dataloader_persistent_workers = False

    @property
    def batches_per_update(self) -> int:
        """Batches in one optimizer update: ranks times accumulation."""
        return self.world_size * self.gradient_accumulation_steps


@dataclass
class SpeechModelArguments:
    """Which model is trained."""

    objective: str = field(default="wav2vec2", metadata={"help": "What is learnt.", "choices": ["wav2vec2", "hubert"]})
    preset: str = field(default="base", metadata={"help": "Size of a new model: tiny, small, base or large."})
    config: dict | str | None = field(
        default=None, metadata={"help": "Fields of the model's config that differ from the preset, as JSON."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Start from these weights, ours or stock, instead of new ones."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa, flash_attention_2, ...; by default the best there is."}
    )

    def __post_init__(self):
        self.config = json.loads(self.config) if isinstance(self.config, str) else self.config or {}


@dataclass
class SpeechDataArguments:
    """Which audio is learnt from."""

    train_data: list[str] = field(
        metadata={"help": "Hub dataset, folder of audio, folder of save_to_disk, or Parquet files (patterns too)."}
    )
    validation_data: list[str] | None = field(default=None, metadata={"help": "The same, for evaluation."})
    train_split: str = field(default="train", metadata={"help": "Split of train_data."})
    validation_split: str = field(default="train", metadata={"help": "Split of validation_data."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration name of a Hub dataset."})
    audio_column: str = field(default="audio", metadata={"help": "Column with the audio."})
    streaming: bool = field(default=False, metadata={"help": "Read train_data as a stream, never stored as a whole."})
    cache_audio: bool = field(
        default=False,
        metadata={"help": "Decode everything once into a memory-mapped int16 cache instead of anew in every epoch."},
    )
    prepare_workers: int | None = field(default=None, metadata={"help": "Processes that prepare the dataset."})
    units: list[str] | None = field(
        default=None,
        metadata={"help": "HuBERT: unit sets (folders or Hub repositories of KMeansUnits) to label the audio with."},
    )
    unit_columns: list[str] | None = field(
        default=None,
        metadata={"help": "HuBERT: columns of the data that hold the units already; say how many with num_units."},
    )


def parse_arguments(argv: Sequence[str], *kinds: type) -> tuple[Any, ...]:
    """Reads `[CONFIG.yaml] [--name value ...]` into one object of each dataclass; the command line wins.

    Raises:
        ValueError: If a name is unknown (the closest known one is named).
    """
    parser = HfArgumentParser(kinds, description="[CONFIG.yaml] [--name value ...]; the command line wins.")
    tokens = list(argv)
    if tokens and tokens[0].endswith((".yaml", ".yml")):
        path = Path(tokens.pop(0))
        if not path.exists():
            raise ValueError(f"There is no configuration {path}.")
        fields = yaml.safe_load(path.read_text()) or {}
        tokens = [token for name, value in fields.items() for token in as_tokens(name, value)] + tokens
    known = parser._option_string_actions
    for token in tokens:
        name = token.partition("=")[0]
        if token.startswith("--") and name not in known and name.replace("-", "_") not in known:
            closest = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"There is no argument {name}." + (f" Did you mean {closest[0]}?" if closest else ""))
    return parser.parse_args_into_dataclasses(tokens)


@contextlib.contextmanager
def tidy_errors():
    """Ends a script on a user's mistake, or an unhealthy run, with its message alone instead of a traceback."""
    try:
        yield
    except (ValueError, UnhealthyRun) as error:
        raise SystemExit(f"\n{type(error).__name__}: {error}") from error


def as_tokens(name: str, value: Any) -> list[str]:
    """A YAML entry as command-line tokens; environment variables are expanded where paths are read."""
    if isinstance(value, dict):
        return [f"--{name}", json.dumps(value)]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [] if value is None else [f"--{name}", str(value)]
