"""Whether transcripts should end with the word delimiter: error rates and word starts, with it and without.

    python benchmarks/final_delimiter.py --corpora $SPEECH_CORPORA --output_file final_delimiter.json

fairseq trains with a delimiter after the last word, Hugging Face's recipes without. Spoken digits are joined with
pauses, so that it is known when each word starts; a small model is trained on them from fresh weights both ways, with
several seeds, and measured on utterances joined from 300 training recordings that are held out: the test set chooses
nothing. For each run: WER, the mean distance of word starts from the true ones in seconds by our aligner (whose silence
is blank or delimiter) and by one that rests on blanks alone, as ctc-segmentation and WhisperX do, and the share of
frames in the pauses in which the delimiter is the likeliest output.
With `--librispeech` one hour of read speech instead, measured on the validation speakers: error rates and the share of
pauses (nothing says when a word really starts); `--encoder` names a pretrained model to begin with.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torchaudio.functional import forced_align
from transformers import AutoModelForCTC, set_seed

from hf_ssl_speech import (
    SpeechCTCTrainer,
    SpeechCTCTrainingArguments,
    SSLWav2Vec2Config,
    SSLWav2Vec2ForCTC,
    TextNormalization,
    add_labels,
    load_speech,
    make_processor,
    prepare_speech,
)
from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.recognition.alignment import align_text
from hf_ssl_speech.recognition.metrics import count_edits
from hf_ssl_speech.recognition.transcript import Alphabet
from hf_ssl_speech.recognition.transcription import compute_logits, transcribe

logger = logging.getLogger("final_delimiter")
# Small enough for a minute or two on a CPU, yet it learns to hear digits.
FIELDS = dict(
    conv_dim=(48,) * 7, hidden_size=96, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192,
    layerdrop=0.0, mask_time_prob=0.1, mask_time_length=4, mask_feature_prob=0.0, num_conv_pos_embeddings=32,
)  # fmt: skip


def joined_digits(recordings: Dataset, count: int, seed: int) -> tuple[Dataset, list, list]:
    """Utterances of 3 to 6 digits with pauses around them, the start of each word, and where the pauses are."""
    rows = recordings.with_format("numpy")
    waves, names = [np.array(wave) for wave in rows["samples"]], list(rows["text"])
    generator = np.random.default_rng(seed)
    utterances, starts, pauses = [], [], []

    def pause():
        return (generator.normal(size=int(generator.uniform(0.1, 0.8) * SAMPLE_RATE)) * 10).astype(np.int16)

    for number in range(count):
        parts, words, at, gaps = [pause()], [], [], []
        gaps.append((0, len(parts[0])))
        for index in generator.integers(len(waves), size=generator.integers(3, 7)):
            length = sum(map(len, parts))
            at.append(length / SAMPLE_RATE)
            parts += [waves[index], pause()]
            words.append(str(names[index]))
            gaps.append((length + len(waves[index]), sum(map(len, parts))))
        samples = np.concatenate(parts)
        text = " ".join(words)
        utterances.append(
            {"name": f"{number}", "sample_id": number, "num_samples": len(samples), "samples": samples, "text": text}
        )
        starts.append(at)
        pauses.append(gaps)
    return Dataset.from_list(utterances), starts, pauses


def read_speech(files: list[str]) -> tuple[Dataset, list]:
    """Utterances of LibriSpeech with normalised transcripts, and where the pauses are, in samples."""
    speech = concatenate_datasets([load_speech(name) for name in files])
    rows, _ = prepare_speech(speech, min_seconds=0.1, cache=True, keep=["text", "phones"])
    pauses = [
        [[int(phone[edge] * SAMPLE_RATE) for edge in ("start", "end")] for phone in phones if phone["phone"] == "SIL"]
        for phones in rows.with_format(None)["phones"]
    ]
    rows = rows.map(lambda row: {"text": TextNormalization()(row["text"])}, remove_columns=["phones"])
    return rows, pauses


def fresh_model(processor, encoder: str | None) -> torch.nn.Module:
    """A CTC model with a new head: small and with fresh weights, or on top of the pretrained encoder."""
    vocabulary = dict(vocab_size=len(processor.tokenizer), pad_token_id=0)
    if encoder is None:
        return SSLWav2Vec2ForCTC(SSLWav2Vec2Config.preset("tiny", **vocabulary, **FIELDS))
    masks = dict(mask_time_prob=0.2, mask_time_length=5, mask_feature_prob=0.2, mask_feature_length=16)
    return AutoModelForCTC.from_pretrained(encoder, **vocabulary, **masks)


def train(rows: Dataset, final_delimiter: bool, seed: int, args: argparse.Namespace):
    """A model trained on the rows, and its processor."""
    set_seed(seed)
    normalization = TextNormalization(final_delimiter=final_delimiter)
    processor = make_processor(rows["text"])
    model = fresh_model(processor, args.encoder)
    labelled, _, _ = add_labels(rows, processor.tokenizer, normalization, model.config)
    with tempfile.TemporaryDirectory() as folder:
        settings = SpeechCTCTrainingArguments(
            output_dir=folder, batch_seconds=args.batch_seconds, max_seconds=args.batch_seconds, max_steps=args.updates,
            learning_rate=args.learning_rate, seed=seed, freeze_conv_encoder=False, max_grad_norm=1, logging_steps=100,
            eval_strategy="no", save_strategy="no", load_best_model_at_end=False, use_cpu=True,
            dataloader_num_workers=0, disable_tqdm=True,
        )  # fmt: skip
        SpeechCTCTrainer(model, settings, labelled, processing_class=processor, normalization=normalization).train()
    return model.eval(), processor


def blank_starts(text: str, logits: torch.Tensor, alphabet: Alphabet) -> list[float]:
    """Word starts of the plain CTC path: silence is the blank's, but for one delimiter between words."""
    emissions = logits.float().log_softmax(-1)
    ids = torch.tensor([alphabet.spell(text)], dtype=torch.int32)
    path, scores = forced_align(emissions[None], ids, blank=alphabet.blank)
    return [word.start for word in alphabet.read(path[0], scores[0]).words]


def measure(model, processor, rows: Dataset, pauses: list, starts: list | None) -> dict[str, float]:
    """The figures of one model; those of word starts where these are known."""
    references = rows["text"]
    heard = [each.text for each in transcribe(model, processor, rows)]
    figures = {}
    for name, unit in (("wer", "words"), ("cer", "characters")):
        edits = count_edits(heard, references, unit)
        figures[name] = float(edits.errors.sum() / edits.reference_length.sum())
    alphabet = Alphabet(processor.tokenizer, model.config)
    ours, plain, delimiters = [], [], []
    for places, logits, frames in compute_logits(model, processor, rows):
        for place, row, length in zip(places, logits, frames.tolist()):
            row = row[:length]
            best = row.argmax(-1).numpy()
            for begin, end in pauses[place]:
                delimiters += (best[begin // 320 + 2 : end // 320 - 2] == alphabet.delimiter).tolist()
            if starts is not None:
                true = np.array(starts[place])
                aligned = [word.start for word in align_text(references[place], row, alphabet).words]
                ours += np.abs(aligned - true).tolist()
                plain += np.abs(np.array(blank_starts(references[place], row, alphabet)) - true).tolist()
    figures["pauses_as_delimiter"] = float(np.mean(delimiters))
    if starts is not None:
        figures |= {"start_error": float(np.mean(ours)), "start_error_on_blanks": float(np.mean(plain))}
    return figures


def main(argv):
    """Trains and measures both ways with each seed; prints and saves the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", required=True)
    parser.add_argument("--output_file", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--batch_seconds", type=float, default=16)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--librispeech", action="store_true")
    parser.add_argument("--encoder")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if args.librispeech:
        folder = f"{args.corpora}/librispeech-mini"
        training, _ = read_speech([f"{folder}/train_10min*.parquet", f"{folder}/train_1h_rest*.parquet"])
        test, pauses = read_speech([f"{folder}/validation*.parquet"])
        starts = None
    else:
        speech = load_speech(f"{args.corpora}/digits/train*.parquet")
        recordings, _ = prepare_speech(speech, min_seconds=0.1, cache=True, keep=["text"])
        parts = recordings.train_test_split(test_size=300, seed=0)
        training, *_ = joined_digits(parts["train"], 1500, seed=0)
        test, starts, pauses = joined_digits(parts["test"], 200, seed=1)
    found = []
    for seed in args.seeds:
        for final_delimiter in (True, False):
            began = time.perf_counter()
            figures = measure(*train(training, final_delimiter, seed, args), test, pauses, starts)
            found.append({"final_delimiter": final_delimiter, "seed": seed, **figures})
            logger.info(f"{found[-1]} {time.perf_counter() - began:.0f} s")
            Path(args.output_file).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
