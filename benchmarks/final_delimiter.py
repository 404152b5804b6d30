"""Whether transcripts should end with the word delimiter: error rates and word starts, with it and without.

    python benchmarks/final_delimiter.py --corpora $SPEECH_CORPORA --output_file final_delimiter.json

fairseq trains with a delimiter after the last word, Hugging Face's recipes without. Spoken digits are joined with
pauses, so that it is known when each word starts; a small model is trained on them from fresh weights both ways, with
several seeds. For each run: WER, the mean distance of word starts from the true ones in seconds by our aligner (whose
silence is blank or delimiter) and by one that rests on blanks alone, as ctc-segmentation and WhisperX do, and the
share of frames in the pauses in which the delimiter is the likeliest output.
With `--librispeech` also 10 minutes of read speech (WER and CER only: nothing says when a word really starts).
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
from datasets import Dataset
from torchaudio.functional import forced_align
from transformers import set_seed

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


def joined_digits(files: str, count: int, seed: int) -> tuple[Dataset, list, list]:
    """Utterances of 3 to 6 digits with pauses around them, the start of each word, and where the pauses are."""
    rows, _ = prepare_speech(load_speech(files), min_seconds=0.1, cache=True, keep=["text"])
    rows = rows.with_format("numpy")
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


def train(rows: Dataset, final_delimiter: bool, seed: int, updates: int):
    """A model trained from fresh weights, and its processor."""
    set_seed(seed)
    normalization = TextNormalization(final_delimiter=final_delimiter)
    processor = make_processor(rows["text"])
    config = SSLWav2Vec2Config.preset("tiny", vocab_size=len(processor.tokenizer), pad_token_id=0, **FIELDS)
    labelled, _, _ = add_labels(rows, processor.tokenizer, normalization, config)
    with tempfile.TemporaryDirectory() as folder:
        args = SpeechCTCTrainingArguments(
            output_dir=folder, batch_seconds=24, max_seconds=16, max_steps=updates, learning_rate=2e-3, seed=seed,
            freeze_conv_encoder=False, max_grad_norm=1, logging_steps=100, eval_strategy="no", save_strategy="no",
            load_best_model_at_end=False, use_cpu=True, dataloader_num_workers=0, disable_tqdm=True,
        )  # fmt: skip
        model = SSLWav2Vec2ForCTC(config)
        SpeechCTCTrainer(model, args, labelled, processing_class=processor, normalization=normalization).train()
    return model.eval(), processor


def blank_starts(text: str, logits: torch.Tensor, alphabet: Alphabet) -> list[float]:
    """Word starts of the plain CTC path: silence is the blank's, but for one delimiter between words."""
    emissions = logits.float().log_softmax(-1)
    ids = torch.tensor([alphabet.spell(text)], dtype=torch.int32)
    path, _ = forced_align(emissions[None], ids, blank=alphabet.blank)
    return [word.start for word in alphabet.read(path[0]).words]


def measure(model, processor, rows: Dataset, starts=None, pauses=None) -> dict[str, float]:
    """The figures of one model."""
    references = rows["text"]
    heard = [each.text for each in transcribe(model, processor, rows)]
    figures = {}
    for name, unit in (("wer", "words"), ("cer", "characters")):
        edits = count_edits(heard, references, unit)
        figures[name] = float(edits.errors.sum() / edits.reference_length.sum())
    if starts is None:
        return figures
    alphabet = Alphabet(processor.tokenizer, model.config)
    ours, plain, delimiters = [], [], []
    for places, logits, frames in compute_logits(model, processor, rows):
        for place, row, length in zip(places, logits, frames.tolist()):
            row, true = row[:length], np.array(starts[place])
            ours += np.abs([word.start for word in align_text(references[place], row, alphabet).words] - true).tolist()
            plain += np.abs(np.array(blank_starts(references[place], row, alphabet)) - true).tolist()
            best = row.argmax(-1).numpy()
            for begin, end in pauses[place]:
                delimiters += (best[begin // 320 + 2 : end // 320 - 2] == alphabet.delimiter).tolist()
    figures |= {"start_error": float(np.mean(ours)), "start_error_on_blanks": float(np.mean(plain))}
    return figures | {"pauses_as_delimiter": float(np.mean(delimiters))}


def main(argv):
    """Trains and measures both ways with each seed; prints and saves the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", required=True)
    parser.add_argument("--output_file", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--librispeech", action="store_true")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if args.librispeech:
        kept = dict(min_seconds=0.1, cache=True, keep=["text"])
        sets = [
            prepare_speech(load_speech(f"{args.corpora}/librispeech-mini/{name}*.parquet"), **kept)[0].map(
                lambda row: {"text": TextNormalization()(row["text"])}
            )
            for name in ("train_10min", "validation")
        ]
        training, (test, *truth) = sets[0], (sets[1],)
    else:
        training, *_ = joined_digits(f"{args.corpora}/digits/train*.parquet", 1500, seed=0)
        test, *truth = joined_digits(f"{args.corpora}/digits/test*.parquet", 200, seed=1)
    found = []
    for seed in args.seeds:
        for final_delimiter in (True, False):
            began = time.perf_counter()
            figures = measure(*train(training, final_delimiter, seed, args.updates), test, *truth)
            found.append({"final_delimiter": final_delimiter, "seed": seed, "updates": args.updates, **figures})
            logger.info(f"{found[-1]} {time.perf_counter() - began:.0f} s")
            Path(args.output_file).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
