"""What a run is given: a model, data, and how its transcripts are written."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_ssl_speech.training.arguments import fields_of


@dataclass
class SpeechModelArguments:
    """Which model is trained."""

    objective: str | None = field(
        default=None,
        metadata={
            "help": "Pretraining objective; by default that of the checkpoint, and wav2vec2 for a new model.",
            "choices": ["wav2vec2", "hubert"],
        },
    )
    preset: str = field(default="base", metadata={"help": "Size of a new model: tiny, tiny-mel, small, base or large."})
    config: dict | str | None = field(
        default=None, metadata={"help": "Fields of the model's config that differ from the preset, as JSON."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Checkpoint to start from, ours or stock; '' starts from fresh weights."},
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa, flash_attention_2, ...; by default the best available."}
    )

    def __post_init__(self):
        self.config = fields_of(self.config) if isinstance(self.config, str) else self.config or {}
        self.model_name_or_path = self.model_name_or_path or None  # '' takes back what a YAML names


@dataclass
class SpeechCTCModelArguments(SpeechModelArguments):
    """Which model is fine-tuned."""

    lora: dict | str | None = field(
        default=None,
        metadata={
            "help": "Train only LoRA adapters and the head. Arguments of peft.LoraConfig as JSON; '{}' for rank 8 on "
            "queries and values."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self.lora = fields_of(self.lora, "lora") if isinstance(self.lora, str) and self.lora else self.lora


@dataclass
class SpeechDataArguments:
    """Which audio is used."""

    train_data: list[str] = field(
        metadata={
            "help": "Hub dataset, folder of audio (with metadata or transcripts beside), Common Voice, Kaldi, "
            "LibriSpeech or save_to_disk folder, Parquet files, manifests or CSV (patterns too), or several of these, "
            "each with a name if you like (NAME=SOURCE); see docs/data.md."
        }
    )
    validation_data: list[str] | None = field(default=None, metadata={"help": "The same, for evaluation."})
    train_split: str = field(default="train", metadata={"help": "Split of train_data."})
    validation_split: str | None = field(
        default=None,
        metadata={
            "help": "Split of validation_data. By default its `validation`, `valid`, `dev` or `eval` split, or its "
            "only split if it has just one; never `train` or `test` if there are others."
        },
    )
    validation_share: float = field(
        default=0.0,
        metadata={
            "help": "Without validation_data: share of the training recordings that is held out for evaluation, chosen "
            "by their names."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration name of a Hub dataset."})
    audio_column: str = field(
        default="audio",
        metadata={"help": "Column with the audio; if there is no `audio`, the usual names are tried."},
    )
    audio_channel: int | None = field(
        default=None,
        metadata={"help": "Channel of multi-channel audio, counted from 1; by default the mean of all."},
    )
    voice_detector: str | None = field(
        default=None,
        metadata={
            "help": "Keep only the stretches in which somebody speaks, each as a row: found by `silero` (needs the "
            "packages silero-vad and onnxruntime) or by their `energy`. The log says what share is dropped.",
            "choices": ["silero", "energy"],
        },
    )
    max_skipped_share: float = field(
        default=0.05,
        metadata={
            "help": "The run stops if a larger share of the rows can't be used. With fewer than 100 rows, as many may "
            "be lost as with 100, but no more than half. Up to half may be shorter than min_seconds."
        },
    )
    streaming: bool = field(default=False, metadata={"help": "Read train_data as a stream, without storing it."})
    cache_audio: bool = field(
        default=False,
        metadata={"help": "Decode everything once, into a memory-mapped int16 cache, instead of in every epoch."},
    )
    prepare_workers: int | None = field(default=None, metadata={"help": "Processes that prepare the dataset."})


@dataclass
class SpeechPreTrainingDataArguments(SpeechDataArguments):
    """Which audio is used, and which units HuBERT predicts."""

    units: list[str] | None = field(
        default=None,
        metadata={"help": "HuBERT: unit sets (folders or Hub repositories of KMeansUnits) to label the audio with."},
    )
    unit_columns: list[str] | None = field(
        default=None,
        metadata={"help": "HuBERT: columns of the data that already hold the units; their number is num_units."},
    )


@dataclass
class SpeechTextArguments:
    """How transcripts are normalised and spelt."""

    text_column: str = field(
        default="text",
        metadata={"help": "Column with the transcripts; if there is no `text`, the usual names are tried."},
    )
    processor: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id whose vocabulary is used; by default that of the CTC model to start from, else "
            "a new one with the characters of the training transcripts."
        },
    )
    new_vocabulary: bool = field(
        default=False,
        metadata={
            "help": "Start with a fresh CTC head on the encoder of a CTC model, with the vocabulary of `processor` or "
            "one made from the training transcripts: for another language or spelling."
        },
    )
    min_character_count: int = field(
        default=1, metadata={"help": "New vocabulary: rarer characters, and the rows with them, are left out."}
    )
    unicode_form: str = field(default="NFKC", metadata={"help": "NFC, NFD, NFKC or NFKD."})
    case: str | None = field(
        default=None, metadata={"help": "lower, upper or keep; by default the processor's case, or lower if it is new."}
    )
    punctuation: str = field(default="remove", metadata={"help": "remove or keep."})
    keep_characters: str = field(default="'", metadata={"help": "Punctuation to keep."})
    tags: str = field(default="remove", metadata={"help": "<COMMA>, [laughter] and similar tags: remove or keep."})
    numbers: str = field(default="keep", metadata={"help": "English number words: keep them, or write digits."})
    language: str | None = field(
        default=None, metadata={"help": "Code of the transcripts' language, for its rules of normalisation."}
    )
    final_delimiter: bool | None = field(
        default=None, metadata={"help": "Whether labels end with the word delimiter; by default as the processor says."}
    )
