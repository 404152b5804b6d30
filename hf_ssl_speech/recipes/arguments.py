"""The settings of units and of HuBERT's iterations."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments
from hf_ssl_speech.units.kmeans_units import MEMORY_GB

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
    abx: bool = field(
        default=False, metadata={"help": "Measure ABX on the validation data, which needs `phones` and `speaker`."}
    )
