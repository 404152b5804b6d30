"""The settings of units, of HuBERT's iterations, of students, of label efficiency, of probes and of features."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hf_ssl_speech.data.feature_description import MEMORY_GB
from hf_ssl_speech.data.mixture_settings import MIX_BY_HELP, WEIGHTS_HELP, as_settings, levels_of
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments, fields_of

CRITERIA = {"phones": "pnmi", "agreement": "agreement"}

SILENCE_HELP = "Labels in `phones` that mean silence or noise, beyond the usual ones of TIMIT, MFA, Kaldi and Buckeye."

MEMORY_HELP = (
    "Gigabytes of features that each process keeps in memory; the rest is computed again in each pass. An hour takes "
    "56 MB as MFCC and 0.55 GB as a layer of BASE."
)


@dataclass
class HubertIterationsArguments:
    """How many iterations HuBERT is trained for, and what its units are made from."""

    iterations: int = field(
        default=2, metadata={"help": "Number of models to train, each on the units of the one before."}
    )
    num_units: list[int] = field(
        default_factory=lambda: [100, 500],
        metadata={
            "help": "Number of units in each set, beginning with the set that the first model learns; the last value "
            "is used for all later sets."
        },
    )
    updates: list[int] | None = field(
        default=None,
        metadata={
            "help": "Number of updates (max_steps) in each iteration; the last value is used for all later iterations. "
            "By default every iteration has max_steps."
        },
    )
    layers: list[int] | None = field(
        default=None,
        metadata={
            "help": "Layer of each iteration's model to make units from, one value for each iteration. By default the "
            "best layer is searched for."
        },
    )
    choose_by: str | None = field(
        default=None,
        metadata={
            "help": "How the best layer is chosen: by the PNMI of its units with the phones, or by how well they agree "
            "with the units of the same audio with noise. By default phones, if the validation data has them.",
            "choices": list(CRITERIA),
        },
    )
    silence: list[str] = field(default_factory=list, metadata={"help": SILENCE_HELP})
    center: bool = field(
        default=False,
        metadata={
            "help": "Subtract each utterance's mean from its features before they are clustered (cepstral mean "
            "normalisation). Without it, units also depend on loudness and channel. The norm in the encoder's first "
            "layer hides these from the model, so that it can only memorise such units. The published models, trained "
            "on much more speech, do not use it."
        },
    )
    choice_hours: float = field(
        default=0.5,
        metadata={"help": "Hours of training audio, and of validation audio, to compare layers and measure units on."},
    )
    kmeans_share: float | None = field(
        default=None,
        metadata={"help": "Share of the utterances to fit units on (default: 0.1, or as much as makes 20 hours)."},
    )
    memory_gb: float = field(default=MEMORY_GB, metadata={"help": MEMORY_HELP})
    teacher: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of an encoder to make the first units from, instead of MFCC."},
    )
    teacher_layer: int | None = field(
        default=None,
        metadata={"help": "Layer of the teacher, counted from 1. By default the best layer is searched for."},
    )

    def __post_init__(self):
        if self.iterations < 1 or not self.num_units:
            raise ValueError(
                f"iterations is {self.iterations} and num_units {self.num_units}: give at least one of each."
            )
        if min(self.num_units) < 2:
            raise ValueError(f"num_units is {self.num_units}: with one unit there is nothing to predict; give more.")
        if self.layers and len(self.layers) != self.iterations:
            raise ValueError(f"layers names {len(self.layers)} layers: name one for each of {self.iterations} models.")
        if self.teacher_layer is not None and self.teacher is None:
            raise ValueError(f"teacher_layer is {self.teacher_layer}, but no teacher is named: give `teacher` too.")

    def num_units_of(self, iteration: int) -> int:
        """Number of units in an iteration's set; iteration 0 is the first set."""
        return self.num_units[min(iteration, len(self.num_units) - 1)]

    def layer_of(self, iteration: int) -> int | None:
        """The layer for the units of an iteration (0: of the teacher); None if it is to be chosen."""
        if iteration == 0:
            return self.teacher_layer
        return self.layers[iteration - 1] if self.layers else None


@dataclass
class UnitArguments:
    """Which units are made."""

    output_dir: str = field(metadata={"help": "Folder for the unit set, its record and pictures."})
    encoder: str | None = field(default=None, metadata={"help": "Folder or Hub id of an encoder, instead of MFCC."})
    layer: int = field(default=6, metadata={"help": "The encoder's layer, counted from 1."})
    silence: list[str] = field(default_factory=list, metadata={"help": SILENCE_HELP})
    center: bool = field(
        default=False,
        metadata={
            "help": "Subtract each utterance's mean from its features: units depend less on speaker and channel."
        },
    )
    num_units: int = field(
        default=100, metadata={"help": "Number of units; the paper takes 100 for MFCC and 500 for a layer."}
    )
    kmeans_share: float | None = field(
        default=None,
        metadata={"help": "Share of the utterances to fit units on (default: 0.1, or as much as makes 20 hours)."},
    )
    weights: list[str] = field(default_factory=list, metadata={"help": WEIGHTS_HELP})
    mix_by: list[str] = field(default_factory=list, metadata={"help": MIX_BY_HELP})
    memory_gb: float = field(default=MEMORY_GB, metadata={"help": MEMORY_HELP})
    restarts: int = field(default=3, metadata={"help": "Number of starts of k-means; the best is kept."})
    seed: int = field(default=0, metadata={"help": "Seed for the choice of utterances and the starts of k-means."})
    min_seconds: float = field(default=1.0, metadata={"help": "Shorter audio is skipped, named and counted."})
    max_seconds: float = field(
        default=SpeechPreTrainingArguments.max_seconds,
        metadata={
            "help": "Audio of more than 40 s and more than twice this length is cut at pauses into pieces of at most "
            "this length."
        },
    )
    batch_seconds: float | None = field(
        default=None, metadata={"help": "Seconds of audio in a batch for the encoder (default: 120, and 12 on a CPU)."}
    )
    bf16: bool | str = field(
        default=False,
        metadata={"help": "Run the encoder in bfloat16: true, false, or auto (if it is faster)."},
    )
    abx: bool = field(
        default=False, metadata={"help": "Measure ABX on the validation data, which needs `phones` and `speaker`."}
    )

    def __post_init__(self):
        self.weights, self.mix_by = as_settings(self.weights, self.mix_by)

    @property
    def levels(self) -> list[str]:
        """The columns by which the sample is mixed, from the outermost."""
        return levels_of(self.weights, self.mix_by)


@dataclass
class DistillationArguments:
    """What a student learns of which teacher."""

    teacher: str = field(metadata={"help": "Folder or Hub id of a wav2vec 2.0 or HuBERT encoder, ours or stock."})
    teacher_layers: list[int] = field(
        default_factory=lambda: [4, 8, 12],
        metadata={"help": "The teacher's layers that the student learns, counted from 1."},
    )
    config: dict | str | None = field(
        default=None,
        metadata={
            "help": "Fields of the student's config that differ from the teacher's, as JSON, such as num_hidden_layers "
            "(2 if not given) or cosine_loss_weight (1)."
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa, flash_attention_2, ...; by default the best available."}
    )

    def __post_init__(self):
        self.config = fields_of(self.config) if isinstance(self.config, str) else self.config or {}


@dataclass
class LabelEfficiencyArguments:
    """What is fine-tuned on how many labels, and what is scored."""

    starts: list[str] = field(
        metadata={
            "help": "What is fine-tuned: NAME=CHECKPOINT (folder or Hub id, ours or stock), and `scratch` for fresh "
            "weights, which have the architecture of the first checkpoint, or without any that of preset and config."
        }
    )
    minutes: list[str] = field(
        metadata={"help": "Minutes of transcribed speech to learn from, or `all`; smaller amounts are part of larger."}
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2],
        metadata={"help": "Each decides which rows are taken, and the seed of the training."},
    )
    test_data: list[str] | None = field(
        default=None, metadata={"help": "Data that is only scored (default: train_data, of which another split)."}
    )
    test_split: str | None = field(default=None, metadata={"help": "Split of test_data (default: test, or its only)."})
    speaker_column: str = field(
        default="speaker", metadata={"help": "Column with the speakers, who are all heard as far as the minutes go."}
    )

    def __post_init__(self):
        if len(self.named_starts) < len(self.starts):
            raise ValueError(f"starts names one start twice: {' '.join(self.starts)}.")
        for amount in self.minutes:
            try:
                known = amount == "all" or float(amount) > 0
            except ValueError:
                known = False
            if not known:
                raise ValueError(f"minutes holds {amount!r}: give numbers above 0, or `all`.")

    @property
    def named_starts(self) -> dict[str, str | None]:
        """The checkpoint of each start by the start's name; None for fresh weights."""
        return {name: None if name == each == "scratch" else each for name, each in named(self.starts).items()}


@dataclass
class PayoffArguments:
    """How the encoders along a pretraining are probed and clustered."""

    hours: list[str] = field(
        default_factory=list,
        metadata={"help": "NAME=HOURS of audio seen, for starts whose records don't tell, such as those on the Hub."},
    )
    num_units: int = field(default=100, metadata={"help": "Number of units that each layer is clustered into."})
    unit_hours: float = field(
        default=0.5, metadata={"help": "Hours of audio to fit units on, and of validation audio to measure them on."}
    )
    center: bool = field(
        default=False, metadata={"help": "Subtract each utterance's mean from its features before they are clustered."}
    )
    memory_gb: float = field(default=MEMORY_GB, metadata={"help": MEMORY_HELP})
    probe_updates: int = field(default=2000, metadata={"help": "Updates of each training of the probe of phones."})
    probe_batch_rows: int = field(default=32, metadata={"help": "Rows in an update of the probe."})
    probe_learning_rates: list[float] = field(
        default_factory=lambda: [3e-3, 3e-2],
        metadata={"help": "Learning rates of the probe, of which the best on validation rows is taken."},
    )
    feature_seconds: float | None = field(
        default=None, metadata={"help": "Seconds of audio in a batch for the encoder (default: 120, and 12 on a CPU)."}
    )


@dataclass
class ProbeArguments:
    """What is read off which features, and how."""

    output_dir: str = field(
        metadata={"help": "Folder for the results; those of several tasks may share one, and make one table."}
    )
    label_column: str = field(
        metadata={
            "help": "Column with what the probe predicts: speaker, language, text, ... (one class for each row), or "
            "phones (a sequence, predicted with CTC)."
        }
    )
    encoders: list[str] = field(
        default_factory=list, metadata={"help": "NAME=CHECKPOINT of each frozen encoder, ours or stock."}
    )
    baselines: list[str] = field(
        default_factory=lambda: ["untrained", "mfcc", "mel"],
        metadata={
            "help": "What encoders are compared with: mfcc (39 values), mel (80 bands), and untrained (fresh weights "
            "with the architecture of the first encoder)."
        },
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "Name of the task in the table (default: SUPERB's: PR for phones, SID for speaker, LID for "
            "language, KS for text or keyword, ER for emotion, else the column's name)."
        },
    )
    test_data: list[str] | None = field(
        default=None, metadata={"help": "Data that is only scored (default: train_data, of which another split)."}
    )
    test_split: str | None = field(
        default=None,
        metadata={
            "help": "Split of test_data (default: test, or its only); `held_out` for as many of the training rows as "
            "validate."
        },
    )
    pooling: str = field(
        default="mean",
        metadata={"help": "How the frames of a row become one vector.", "choices": ["mean", "attentive"]},
    )
    projected: int = field(default=256, metadata={"help": "Width of the projection before the last linear layer."})
    updates: int = field(default=2000, metadata={"help": "Updates of each training of a probe."})
    batch_rows: int = field(default=32, metadata={"help": "Rows in an update."})
    learning_rates: list[float] = field(
        default_factory=lambda: [3e-3, 3e-2],
        metadata={"help": "Learning rates, of which the best on validation rows is taken, for each of the features."},
    )
    seed: int = field(default=0, metadata={"help": "Decides the order, and the untrained encoder."})
    min_seconds: float = field(default=0.1, metadata={"help": "Shorter audio is skipped, named and counted."})
    silence: list[str] = field(default_factory=list, metadata={"help": SILENCE_HELP})
    batch_seconds: float | None = field(
        default=None, metadata={"help": "Seconds of audio in a batch for the encoder (default: 120, and 12 on a CPU)."}
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self):
        unknown = set(self.baselines) - {"untrained", "mfcc", "mel"}
        if unknown:
            raise ValueError(f"baselines names {', '.join(sorted(unknown))}: there are untrained, mfcc and mel.")
        if not self.encoders and self.baselines in ([], ["untrained"]):
            raise ValueError("There is nothing to probe: give encoders as NAME=CHECKPOINT, or baselines.")
        taken = set(named(self.encoders)) & set(self.baselines)
        if len(named(self.encoders)) < len(self.encoders) or taken:
            raise ValueError(f"Two of the features have one name: {' '.join([*self.encoders, *self.baselines])}.")


@dataclass
class FeatureArguments:
    """Which features of which audio are written where."""

    data: list[str] = field(metadata={"help": "The audio: whatever training takes as data; see docs/data.md."})
    output_dir: str = field(metadata={"help": "Folder for the dataset, Parquet files in `data`, and run.json."})
    encoder: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of an encoder, ours or stock; without it (nor units) MFCC."}
    )
    layer: int | None = field(
        default=None, metadata={"help": "Layer of the encoder, counted from 1; 0 is the transformer's input."}
    )
    units: str | None = field(
        default=None, metadata={"help": "Write units, of this unit set (folder or Hub id), instead of vectors."}
    )
    keep_repeats: bool = field(
        default=False,
        metadata={"help": "Write a unit for each frame; by default one for each run, and how long it lasts."},
    )
    text_files: bool = field(
        default=False,
        metadata={"help": "Units: write them as text too (SPLIT.txt, .jsonl, and fairseq's .km with its .tsv)."},
    )
    splits: list[str] = field(default_factory=lambda: ["train"], metadata={"help": "Splits of the data to write."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration name of a Hub dataset."})
    audio_column: str = field(default="audio", metadata={"help": "Column with the audio."})
    keep: list[str] = field(default_factory=list, metadata={"help": "Columns of the data that are written too."})
    number_format: str = field(
        default="float32",
        metadata={
            "help": "Number format of the vectors; float16 takes half the space.",
            "choices": ["float32", "float16"],
        },
    )
    min_seconds: float = field(default=0.1, metadata={"help": "Shorter audio is skipped, named and counted."})
    max_skipped_share: float = field(
        default=0.05, metadata={"help": "The command stops if more rows than this can't be used, for whatever reason."}
    )
    workers: int = field(default=2, metadata={"help": "Processes that decode audio; 0: the computing process does."})
    batch_seconds: float | None = field(
        default=None, metadata={"help": "Seconds of audio in a batch for the encoder (default: 120, and 12 on a CPU)."}
    )
    bf16: bool | str = field(
        default=False,
        metadata={
            "help": "Run the encoder in bfloat16: true, false, or auto (if it is faster); vectors are written as "
            "`number_format` says."
        },
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar."})

    def __post_init__(self):
        if self.units and (self.encoder or self.layer is not None):
            raise ValueError("The unit set says which encoder and layer it takes: leave out encoder and layer.")
        if (self.encoder is None) != (self.layer is None):
            raise ValueError("Give encoder and layer, both or none of them.")
        if self.text_files and not self.units:
            raise ValueError("text_files writes units as text: give the unit set with `units`.")


def named(checkpoints: list[str]) -> dict[str, str]:
    """`NAME=CHECKPOINT` as checkpoints by name; one without a name gets that of its folder."""
    pairs = [(each, *each.partition("=")) for each in checkpoints]
    return {name if equals else Path(each).name: path if equals else each for each, name, equals, path in pairs}
