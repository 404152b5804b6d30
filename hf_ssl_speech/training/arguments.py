"""The settings of a run, with the papers' as defaults."""

from __future__ import annotations

import atexit
import contextlib
import difflib
import json
import math
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from hf_ssl_speech.records import naming_the_file, read_yaml, unwritable_cache
from hf_ssl_speech.training.callbacks import AlreadyComplete, UnhealthyRun
from hf_ssl_speech.training.precision import computes_bf16
from hf_ssl_speech.training.stopping import Interrupted, LostProcess


@dataclass
class SpeechTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with batches counted in seconds.

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
    max_seconds: float = field(
        default=15.6,
        metadata={"help": "Longer audio is cropped at a random place; with transcripts it is skipped instead."},
    )
    buffer_seconds: float = field(
        default=3600.0, metadata={"help": "Streaming: audio that is held back to be sorted by length and shuffled."}
    )

    preflight_only: bool = field(
        default=False,
        metadata={
            "help": "Only check data, masks, recipe, disk, memory and, in fine-tuning, that a few rows can be learnt; "
            "print what was found, and end. Nothing is written but caches; the exit code is 0 if the run can begin."
        },
    )
    bf16: bool | str = field(
        default=False,
        metadata={"help": "Compute in bfloat16, with float32 weights: true, false, or auto: where that is faster."},
    )

    adam_beta2: float = 0.98
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
        if self.bf16 == "auto":
            self.bf16 = not self.fp16 and computes_bf16(self.use_cpu)
        super().__post_init__()
        if self.max_seconds > self.batch_seconds:
            raise ValueError(
                f"max_seconds is {self.max_seconds:g} but a batch holds {self.batch_seconds:g} s: raise batch_seconds, "
                "or lower max_seconds."
            )
        if self.n_gpu > 1:
            raise ValueError(
                f"One process sees {self.n_gpu} GPUs. DataParallel, which Trainer would take, is slower and trains "
                f"another model: start one process for each GPU with `accelerate launch --num_processes {self.n_gpu} "
                "SCRIPT ...`, or show this one a single GPU with CUDA_VISIBLE_DEVICES=0."
            )
        if self.min_seconds > self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds:g} is above max_seconds {self.max_seconds:g}.")
        if self.hours_per_update is not None:
            seconds_per_rank = self.hours_per_update * 3600 / self.world_size
            if seconds_per_rank < self.max_seconds:
                raise ValueError(
                    f"{self.hours_per_update:g} hours per update leave {seconds_per_rank:.1f} s for each of "
                    f"{self.world_size} devices, less than one utterance of {self.max_seconds:g} s: use fewer devices, "
                    "more hours per update, or lower max_seconds."
                )
            # Published hours are rounded: a thousandth too much shall not halve the batches.
            self.gradient_accumulation_steps = math.ceil(0.999 * seconds_per_rank / self.batch_seconds)
            self.batch_seconds = max(seconds_per_rank / self.gradient_accumulation_steps, self.max_seconds)
        if self.dataloader_num_workers == 0:
            self.dataloader_persistent_workers = False

    @property
    def should_save(self) -> bool:
        """Whether this process writes to the disk."""
        return super().should_save and not self.preflight_only

    @property
    def batches_per_update(self) -> int:
        """Batches in one optimizer update: ranks times accumulation."""
        return self.world_size * self.gradient_accumulation_steps

    def updates_until_learning(self, max_steps: int) -> int:
        """Updates of a run of `max_steps` before all weights learn at the full rate: those of the warm-up."""
        return self.get_warmup_steps(max_steps)

    @property
    def order_seed(self) -> int:
        """What decides order, crops and masks: `data_seed` if there is one, else `seed`."""
        return self.seed if self.data_seed is None else self.data_seed


@dataclass
class SpeechPreTrainingArguments(SpeechTrainingArguments):
    """Settings of a pretraining run; the defaults are those of wav2vec 2.0 BASE (section 4.2)."""

    learning_rate: float = 5e-4
    max_steps: int = 400_000
    warmup_steps: float = 32_000
    weight_decay: float = 0.01
    adam_epsilon: float = 1e-6


@dataclass
class SpeechCTCTrainingArguments(SpeechTrainingArguments):
    """Settings of fine-tuning with CTC; the defaults are those of BASE with 100 hours of transcripts (section 4.3).

    With `lr_scheduler_type` `warmup_stable_decay` the learning rate has the paper's three stages: it rises, stays, and
    falls exponentially, as `tri_stage` says.
    """

    tri_stage: list[float] = field(
        default_factory=lambda: [0.1, 0.4, 0.5],
        metadata={"help": "Updates to warm up, to hold and to decay; up to 1 as shares of max_steps."},
    )
    initial_share: float = field(default=0.01, metadata={"help": "Learning rate of the first update, of the peak's."})
    final_share: float = field(default=0.05, metadata={"help": "Learning rate of the last update, of the peak's."})
    freeze_conv_encoder: bool = field(default=True, metadata={"help": "Whether the conv encoder stays as pretrained."})
    freeze_transformer_updates: int = field(
        default=0, metadata={"help": "Updates in which only the new head learns, the whole encoder frozen."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop when so many evaluations in a row were no better than the best."}
    )
    examples_shown: int = field(default=3, metadata={"help": "Transcripts in the log after each evaluation."})

    batch_seconds: float = 200.0
    min_seconds: float = 0.1
    max_seconds: float = 36.0
    learning_rate: float = 3e-5
    max_steps: int = 80_000
    lr_scheduler_type: str = "warmup_stable_decay"
    adam_epsilon: float = 1e-8
    eval_strategy: str = "steps"
    eval_steps: float = 1000
    save_steps: float = 1000
    load_best_model_at_end: bool = True
    metric_for_best_model: str = "wer"
    greater_is_better: bool = False

    def __post_init__(self):
        super().__post_init__()
        if len(self.tri_stage) != 3 or min(self.tri_stage) < 0:
            raise ValueError(f"tri_stage is {self.tri_stage}: give three stages, as shares or updates.")
        if self.lr_scheduler_type == "warmup_stable_decay" and self.warmup_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps:g}, but the first stage of tri_stage is the warm-up: set that, or "
                "another lr_scheduler_type."
            )

    def stages(self, max_steps: int) -> tuple[int, int, int]:
        """Updates of warm-up, hold and decay in a run of `max_steps` updates."""
        return tuple(int(stage * max_steps if stage <= 1 else stage) for stage in self.tri_stage)

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Updates of the warm-up."""
        if self.lr_scheduler_type == "warmup_stable_decay":
            return self.stages(num_training_steps)[0]
        return super().get_warmup_steps(num_training_steps)

    def updates_until_learning(self, max_steps: int) -> int:
        """Updates before all weights learn at the full rate: those of the warm-up, or of the frozen transformer."""
        return max(super().updates_until_learning(max_steps), self.freeze_transformer_updates)


@dataclass
class SpeechModelArguments:
    """Which model is trained."""

    objective: str = field(default="wav2vec2", metadata={"help": "What is learnt.", "choices": ["wav2vec2", "hubert"]})
    preset: str = field(default="base", metadata={"help": "Size of a new model: tiny, small, base or large."})
    config: dict | str | None = field(
        default=None, metadata={"help": "Fields of the model's config that differ from the preset, as JSON."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Start from these weights, ours or stock, instead of new ones; '' for new ones after all."},
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa, flash_attention_2, ...; by default the best there is."}
    )

    def __post_init__(self):
        self.config = fields_of(self.config) if isinstance(self.config, str) else self.config or {}
        self.model_name_or_path = self.model_name_or_path or None  # '' takes back what a YAML names


def fields_of(text: str) -> dict[str, Any]:
    """The fields of a model's config that a command line gives as JSON.

    Raises:
        ValueError: If it is no JSON, or no object.
    """
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("no names with values")
    except ValueError as error:
        raise ValueError(
            f"config is {text!r}, which is no JSON object ({error}): write it like --config '{{\"hidden_size\": 192}}'."
        ) from error
    return fields


@dataclass
class SpeechDataArguments:
    """Which audio is learnt from."""

    train_data: list[str] = field(
        metadata={"help": "Hub dataset, folder of audio, folder of save_to_disk, or Parquet files (patterns too)."}
    )
    validation_data: list[str] | None = field(default=None, metadata={"help": "The same, for evaluation."})
    train_split: str = field(default="train", metadata={"help": "Split of train_data."})
    validation_split: str | None = field(
        default=None,
        metadata={
            "help": "Split of validation_data. By default its `validation`, `valid`, `dev` or `eval` split, whichever "
            "is there, or its only split if it has just one; never its `train` or `test` split beside others."
        },
    )
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


@dataclass
class SpeechTextArguments:
    """How transcripts are written and spelt."""

    text_column: str = field(default="text", metadata={"help": "Column with the transcripts."})
    processor: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id whose vocabulary is taken; by default that of the CTC model to start from, else "
            "one is made of the characters of the training transcripts."
        },
    )
    min_character_count: int = field(
        default=1, metadata={"help": "New vocabulary: rarer characters are left out, and the rows that hold them."}
    )
    unicode_form: str = field(default="NFKC", metadata={"help": "NFC, NFD, NFKC or NFKD."})
    case: str | None = field(
        default=None, metadata={"help": "lower, upper or keep; by default as the processor spells, lower if new."}
    )
    punctuation: str = field(default="remove", metadata={"help": "remove or keep."})
    keep_characters: str = field(default="'", metadata={"help": "Punctuation that is kept nevertheless."})
    tags: str = field(default="remove", metadata={"help": "<COMMA>, [laughter] and their like: remove or keep."})
    language: str | None = field(
        default=None, metadata={"help": "Code of the transcripts' language, where its writers have rules of their own."}
    )
    final_delimiter: bool | None = field(
        default=None, metadata={"help": "Whether labels end with the word delimiter; by default as the processor says."}
    )
    max_skipped_share: float = field(
        default=0.05, metadata={"help": "The run stops if more rows than this can't be used, for whatever reason."}
    )


def parse_arguments(argv: Sequence[str], *kinds: type) -> tuple[Any, ...]:
    """Reads `[CONFIG.yaml] [--name value ...]` into one object of each dataclass; the command line wins.

    An empty value, as in `--units ''`, takes back what the YAML sets for an argument that can be left out.

    Raises:
        ValueError: If a name is unknown (the closest known one is named), a value can't be understood, or the YAML is
            malformed.
    """
    parser = _Parser(kinds, description="[CONFIG.yaml] [--name value ...]; the command line wins.")
    tokens = list(argv)
    if tokens and tokens[0].endswith((".yaml", ".yml")):
        path = Path(tokens.pop(0))
        if not path.exists():
            raise ValueError(f"There is no configuration {path}.")
        with naming_the_file(path, "settings of this script"):
            settings = [token for name, value in read_yaml(path).items() for token in as_tokens(name, value)]
            parser.check_names(settings)
        tokens = settings + tokens
    parser.check_names(tokens)
    tokens = parser.take_back(tokens)
    return parser.parse_args_into_dataclasses(tokens)


class _Parser(HfArgumentParser):
    """A parser whose errors are sentences, for `tidy_errors`, and not hundreds of lines of usage."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if "--bf16" in self._option_string_actions:  # HfArgumentParser takes one type alone: bool
            self._option_string_actions["--bf16"].type = bool_or_auto

    def error(self, message: str):
        raise ValueError(f"{message[:1].upper()}{message[1:]}. `--help` lists the arguments.")

    def check_names(self, tokens: Sequence[str]):
        """Raises a ValueError if a name is unknown; the closest known one is named."""
        known = self._option_string_actions
        for token in tokens:
            name = token.partition("=")[0]
            if token.startswith("--") and name not in known and name.replace("-", "_") not in known:
                closest = difflib.get_close_matches(name, known, n=1)
                raise ValueError(f"There is no argument {name}." + (f" Did you mean {closest[0]}?" if closest else ""))


    def take_back(self, tokens: Sequence[str]) -> list[str]:
        """The tokens without the settings that a later empty value takes back: their defaults hold.

        An argument whose default is a text takes the empty text as its value.
        """
        stray: list[str] = []
        given, values = {}, stray
        for token in tokens:
            if token.startswith("--"):
                name, equals, value = token.partition("=")
                values = given[name.replace("-", "_").replace("__", "--", 1)] = [value] if equals else []
            else:
                values.append(token)
        kept = list(stray)
        for name, values in given.items():
            default = self._option_string_actions[name].default if name in self._option_string_actions else ""
            if values == [""] and (default is None or isinstance(default, list)):
                continue
            # One token for one value, which may begin with a dash.
            kept += [f"{name}={values[0]}"] if len(values) == 1 else [name, *values]
        return kept


@contextlib.contextmanager
def tidy_errors(*more: type[Exception]):
    """Around a script: a user's mistake, a full disk, a missing extra or an unhealthy run ends it with its message.

    A run that is complete already is no mistake: its message is printed, and the script ends with exit code 0. One
    that was asked to stop ends with 143, as a process does that SIGTERM ends.
    Where several processes have trained together, the script ends here: nothing that follows the block is run.

    Args:
        more: Other errors that tell all in their message.
    """
    exit_code = 0
    try:
        yield
    except AlreadyComplete as message:
        print(message)
    except Interrupted as message:
        print(message)
        exit_code = message.exit_code
    except LostProcess as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        end_process(1)  # the process group can't be left in order any more
    except (ValueError, OSError, ImportError, StrictDataclassError, UnhealthyRun, *more) as error:
        cause = unwritable_cache() if isinstance(error, OSError) else None
        raise SystemExit(f"\n{type(error).__name__}: {cause or error}") from error
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        end_process(exit_code)
    if exit_code:
        raise SystemExit(exit_code)


def end_process(exit_code: int):
    """Ends a process whose work is done, without the teardown of the interpreter.

    DistributedDataParallel keeps Gloo's threads alive after `destroy_process_group`. If such a thread still has to
    release a tensor of the last collective, it waits for the interpreter's lock; Python ends threads that ask for the
    lock during its teardown, and C++ takes that for a fatal error and aborts the process. Everything else that happens
    at an exit happens here too: threads are joined, exit functions (as those of trackers) run, and output is flushed.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def bool_or_auto(text: str) -> bool | str:
    """`auto` as it is, anything else as true or false."""
    return text if text == "auto" else string_to_bool(text)


def as_tokens(name: str, value: Any) -> list[str]:
    """A YAML entry as command-line tokens; environment variables are expanded where paths are read."""
    if isinstance(value, dict):
        return [f"--{name}", json.dumps(typed(value))]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [] if value is None else [f"--{name}={value}"]


def typed(value: Any) -> Any:
    """Scalars inside a mapping, which were read as text, as JSON takes them: numbers, true, false, else text."""
    if isinstance(value, dict):
        return {name: typed(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [typed(entry) for entry in value]
    for read in (json.loads, float):
        with contextlib.suppress(TypeError, ValueError):
            return read(value)
    return value
