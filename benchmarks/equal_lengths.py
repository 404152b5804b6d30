"""Batches of one length beside padded ones: what is kept of an epoch, the time of a step, and what is learnt.

    python benchmarks/equal_lengths.py --train_data '$SPEECH_CORPORA/librispeech-mini/train_*.parquet' \\
        --validation_data '$SPEECH_CORPORA/librispeech-mini/validation*.parquet' \\
        --output_file docs/measured/equal_lengths.json

An epoch is planned over lengths like those of LibriSpeech. The steps are those of the tiny HuBERT on batches of real
speech, each side on its own, by their medians and by seconds of real audio. Both ways then train from the same weights
for as many updates, on units of MFCC, and are evaluated on the same padded batches.
"""

import itertools
import tempfile
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from datasets import Dataset
from measuring import arguments, in_turn, machine, spread, write_results

from hf_ssl_speech import (
    DurationBatchSampler,
    KMeansUnits,
    MfccFeatures,
    SpeechPreTrainer,
    SpeechPreTrainingArguments,
    SSLHubertConfig,
    SSLHubertForPreTraining,
    add_units,
    load_speech,
    prepare_speech,
)
from hf_ssl_speech.allocation import keep_memory
from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.collators import cropped_to_frames

WAYS = {"padded": 0, "of one length": 16}  # crop_to_frames
LIBRISPEECH_ROWS = 281_241
TRAINED = {"batch_seconds": 12.25, "max_seconds": 6.105, "min_seconds": 0.5}  # 304 frames are 6.105 s


def librispeech_lengths(rows: int) -> np.ndarray:
    """Lengths like LibriSpeech's: most near 14 s, a tail of short ones, 12.3 s in the mean."""
    rng = np.random.default_rng(0)
    seconds = np.where(rng.random(rows) < 0.72, rng.normal(14.3, 1.1, rows), rng.uniform(2, 13, rows))
    return (seconds.clip(1.5, 17) * SAMPLE_RATE).astype(int)


def plan(rows: int) -> dict:
    """What both ways make of an epoch as BASE sees it."""
    lengths, found = librispeech_lengths(rows), {}
    for name, multiple in WAYS.items():
        layers = SSLHubertConfig().conv_layers
        crop = partial(cropped_to_frames, multiple=multiple, conv_layers=layers) if multiple else None
        sampler = DurationBatchSampler(lengths, batch_seconds=87.5, max_seconds=15.6, crop=crop)
        sizes = [(len(batch), int(sampler.lengths[batch].max())) for batch in sampler]
        uneven = sum(len(set(sampler.lengths[batch].tolist())) > 1 for batch in sampler)
        found[name] = {
            "batches": len(sizes),
            "shapes": len(set(sizes)),
            "share_with_a_mask": uneven / len(sizes),
            "padding": sampler.waste,
            "share_kept": sampler.kept,
        }
    return found


def make_trainer(rows: Dataset, validation: Dataset, output: str, seed: int, updates: int, multiple: int):
    torch.manual_seed(seed)
    model = SSLHubertForPreTraining(SSLHubertConfig.preset("tiny", num_units=[100], unmasked_loss_weight=1.0))
    settings = SpeechPreTrainingArguments(
        output_dir=output, crop_to_frames=multiple, max_steps=updates, learning_rate=1.5e-3, lr_scheduler_type="linear",
        warmup_steps=updates // 10, max_grad_norm=10, logging_steps=updates, save_strategy="no", seed=seed,
        use_cpu=True, disable_tqdm=True, dataloader_num_workers=0, **TRAINED,
    )  # fmt: skip
    return SpeechPreTrainer(model, settings, train_dataset=rows, eval_dataset=validation)


def step_of(trainer: SpeechPreTrainer, batches: int) -> tuple[Callable[[], None], float]:
    """Runs steps on the first batches of an epoch, and the seconds of audio in them."""
    inputs = list(itertools.islice(trainer.get_train_dataloader(), batches))
    audio = sum(
        int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_values"].numel()
        for batch in inputs
    )
    optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=1e-5, fused=True)
    tensors = [{name: value for name, value in batch.items() if torch.is_tensor(value)} for batch in inputs]
    trainer.model.train().set_update(0)

    def run():
        for batch in tensors:
            trainer.model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run, audio / SAMPLE_RATE


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        argv,
        __doc__,
        9,
        train_data=dict(nargs="+", required=True, help="as `hf-ssl-speech pretrain` takes it"),
        validation_data=dict(nargs="+", required=True),
        updates=dict(type=int, default=300, help="updates of each training"),
        seeds=dict(type=int, default=2, help="trainings of each way"),
    )
    if args.quick:
        args.rounds, args.updates, args.seeds = 1, 2, 1
    keep_memory()  # as `hf-ssl-speech` does
    results = {
        "machine": machine("transformers"),
        "settings": {**TRAINED, "updates": args.updates, "seeds": args.seeds},
        "epoch": plan(1_000 if args.quick else LIBRISPEECH_ROWS),
    }
    print(results["epoch"], flush=True)
    rows, _ = prepare_speech(load_speech(args.train_data), min_seconds=TRAINED["min_seconds"], cache=True)
    validation, _ = prepare_speech(load_speech(args.validation_data), min_seconds=TRAINED["min_seconds"], cache=True)
    units = KMeansUnits.fit(rows, MfccFeatures(center=True), num_units=100, seed=0, share=1.0, iterations=20)
    rows, validation = add_units(rows, units), add_units(validation, units)

    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: make_trainer(rows, validation, folder, 0, 1, multiple) for name, multiple in WAYS.items()}
        steps = {name: step_of(trainer, 2 if args.quick else 12) for name, trainer in trainers.items()}
        times = in_turn({name: run for name, (run, _) in steps.items()}, args.rounds, 1)
        results["steps"] = {
            name: {"audio_seconds": audio, "seconds": spread(times[name])} for name, (_, audio) in steps.items()
        }
        print(results["steps"], flush=True)
        write_results(args.output_file, results)
        results["learning"] = {name: [] for name in WAYS}
        for seed in range(args.seeds):
            for name, multiple in WAYS.items():
                trainer = make_trainer(rows, validation, f"{folder}/{seed}-{multiple}", seed, args.updates, multiple)
                start = time.process_time()
                trainer.train()
                found = {"seed": seed, "cpu_seconds": time.process_time() - start}
                found |= {"hours_seen": trainer.tally.hours_seen, **trainer.evaluate()}
                results["learning"][name].append({key: value for key, value in found.items() if "samples" not in key})
                print(name, found, flush=True)
                write_results(args.output_file, results)


if __name__ == "__main__":
    main()
