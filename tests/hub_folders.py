"""Folders as runs leave them, tiny: an encoder, a CTC model with its processor, a unit set; with their records."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from conftest import tiny_model
from matplotlib.figure import Figure
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from hf_ssl_speech import KMeansUnits, SSLHubertForCTC, SSLWav2Vec2ForPreTraining
from hf_ssl_speech.data.features import MfccFeatures
from hf_ssl_speech.recognition.normalization import TextNormalization
from hf_ssl_speech.records import write_record
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments
from hf_ssl_speech.training.recipe import settings_of
from hf_ssl_speech.training.resume import run_identity

VOCABULARY = {"<pad>": 0, "|": 1, "<unk>": 2, "a": 3, "b": 4, "c": 5}
SPLIT = {"source": ["openslr/librispeech_asr"], "fingerprint": "0123456789abcdef", "rows": 1234, "hours": 5.678,
         "skipped": {"total": 1240, "num_skipped": 6, "skipped": {"too short": ["a"] * 6}}}  # fmt: skip


def run_record(model, folder: Path, **changes) -> dict:
    """What a run of a model writes; figures are odd ones, to be found again."""
    args = SpeechPreTrainingArguments(output_dir=str(folder), use_cpu=True, max_steps=321, hours_per_update=0.01)
    record = {
        "format": 1,
        "status": "complete",
        "command": "examples/pretrain.py --learning_rate 5e-4",
        "train_seconds": 7654.0,
        "versions": {"torch": "2.14.1", "hf_ssl_speech": "0.1.0"},
        "machine": {"device": "A device", "processes": 2, "threads": 1},
        "identity": run_identity(model.config, {"train": SPLIT["fingerprint"]}, args),
        "parameters": model.num_parameters(),
        "data": {"train": SPLIT, "validation": SPLIT | {"rows": 98, "hours": 0.43}},
        "recipe": settings_of(args),
        "updates": 321,
        "hours_seen": 3.2109,
        "seconds_per_update": 36.01,
        "skipped_while_training": {},
        "curves": [{"step": 300, "accuracy": 0.111}, {"step": 321, "eval_accuracy": 0.2345, "eval_chance": 0.0101}],
    }
    return record | changes


def score(**changes) -> dict:
    """An entry of `scores.json`."""
    entry = {
        "data": {"source": "openslr/librispeech_asr", "split": "test.clean", "rows": 2620, "hours": 5.4,
                 "fingerprint": "fedcba9876543210"},
        "normalization": TextNormalization().to_dict(),
        "decoder": {"kind": "beam", "beam_size": 50},
        "wer": {"value": 0.12345, "low": 0.1151, "high": 0.1322, "confidence": 0.95},
        "cer": {"value": 0.0456, "low": 0.0411, "high": 0.0499, "confidence": 0.95},
        "groups": {},
        "real_time_factor": 0.0271,
        "device": "A device",
        "parameters": 1,
        "command": "examples/evaluate_asr.py --models runs/ctc",
        "date": "2026-01-02T03:04:05+00:00",
        "versions": {"jiwer": "4.0.0"},
    }  # fmt: skip
    return entry | changes


def make_encoder(folder: Path, **changes) -> Path:
    model = tiny_model(SSLWav2Vec2ForPreTraining)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    write_record(run_record(model, folder, **changes), folder)
    Figure(figsize=(1, 1)).savefig(folder / "training.png")
    (folder / "training_args.bin").write_bytes(b"pickled")
    (folder / "checkpoint-300").mkdir()
    (folder / "checkpoint-300" / "config.json").write_text("{}")
    return folder


def make_ctc(folder: Path, scores: list | None = None, **changes) -> Path:
    model = tiny_model(SSLHubertForCTC, vocab_size=len(VOCABULARY))
    model.save_pretrained(folder)
    make_processor(folder).save_pretrained(folder)
    start = {"source": "me/encoder", "record": {"data": {"train": SPLIT | {"hours": 960.0}}}}
    record = {
        "task": "ctc",
        "start": start,
        "text": {"rows": 1234, "words": 4321, "vocabulary": ["<pad>", "|", "a", "b"]},
    }
    record["curves"] = [{"step": 321, "eval_wer": 0.2222, "eval_cer": 0.0777}]
    write_record(run_record(model, folder, **(record | changes)), folder)
    TextNormalization().save_pretrained(folder)
    if scores is not None:
        (folder / "scores.json").write_text(json.dumps(scores))
    return folder


def make_processor(folder: Path) -> Wav2Vec2Processor:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    none = dict(bos_token=None, eos_token=None)
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>", unk_token="<unk>", **none)
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True), tokenizer)


def make_units(folder: Path, source=None, **changes) -> Path:
    """Units of MFCC, or of a source."""
    features = (source or MfccFeatures()).description
    facts = {"seed": 3, "share": 0.1, "inertia": 12.34, "iterations": 7, "frames": 5000, "utterances": 55,
             "hours": 0.0278, "versions": {"torch": "2.14.1"}}  # fmt: skip
    torch.manual_seed(0)
    KMeansUnits(torch.randn(8, features.width), torch.ones(8), features, facts).save_pretrained(folder)
    record = {
        "format": 1,
        "status": "complete",
        "command": "examples/make_units.py --num_units 8",
        "data": {"train": SPLIT},
        "quality": {"pnmi": 0.4321, "phone_purity": 0.5432, "dead_clusters": 2},
    }
    write_record(record | changes, folder)
    return folder
