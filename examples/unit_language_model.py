"""Trains a small stock language model on units, and asks whether it knows speech from shuffled speech.

    hf-ssl-speech features --units runs/units --data my_audio --output_dir runs/unit-text
    hf-ssl-speech features --units runs/units --data other_speakers --output_dir runs/unit-text-test
    python examples/unit_language_model.py --units runs/units --train runs/unit-text --test runs/unit-text-test \\
        --output_dir runs/unit-lm

The model is a GPT-2 with fresh weights, trained by transformers' own Trainer. Beside it stand n-gram models of the same
units (they need flashlight-text: extra `[lm]`). Printed are, for units of unseen speech: the perplexity of a unit, and
how often a real utterance is likelier than the same utterance with its units in another order. In that order no unit
follows itself, since models of units without repeats could tell it by this alone.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_ssl_speech import KMeansUnits, write_ngram
from hf_ssl_speech.units.unit_text import as_text

LONGEST = 1024  # units
BLOCKS = (1, 5, 20)  # units that stay together when an utterance is shuffled


def shuffled(units: list[int], block: int, generator: np.random.Generator) -> list[int] | None:
    """The units in another order, in blocks, such that no unit follows itself; None if chance finds no such order."""
    blocks = [units[start : start + block] for start in range(0, len(units), block)]
    for _ in range(1000 if len(blocks) > 2 else 0):
        order = generator.permutation(len(blocks))
        new = [unit for place in order for unit in blocks[place]]
        if new != units and all(map(int.__ne__, new, new[1:])):
            return new
    return None


def train(texts: list[str], tokenizer, args: argparse.Namespace) -> GPT2LMHeadModel:
    """A GPT-2 that has learnt the texts."""
    set_seed(args.seed)
    rows = [tokenizer(text, truncation=True, max_length=LONGEST) for text in texts]
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_positions=LONGEST, n_embd=args.width, n_layer=args.layers, n_head=4,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    settings = TrainingArguments(
        args.output_dir, max_steps=args.updates, per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate, lr_scheduler_type="cosine", warmup_steps=args.updates // 20,
        weight_decay=0.1, logging_steps=50,
        save_strategy="no", report_to="none", seed=args.seed,
    )  # fmt: skip
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = Trainer(model, settings, collator, rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    return model.eval()


@torch.no_grad()
def model_scores(model: GPT2LMHeadModel, tokenizer, utterances: list[list[int]]) -> np.ndarray:
    """The log probability of each utterance, its end included, in nats."""
    scores = []
    for units in utterances:
        ids = tokenizer(as_text(units), return_tensors="pt").input_ids.to(model.device)
        # The mean over what is predicted: all but the start.
        scores.append(-model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1))
    return np.array(scores)


class NGrams:
    """An n-gram model of units, read by KenLM."""

    def __init__(self, texts: list[str], num_units: int, order: int, folder: Path):
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary

        path = folder / f"{order}-grams.arpa"
        write_ngram(texts, path, order=order)
        self.words = Dictionary()
        for unit in range(num_units):
            self.words.add_entry(str(unit))
        self.model = KenLM(str(path), self.words)

    def scores(self, utterances: list[list[int]]) -> np.ndarray:
        """As those of the model."""
        found = []
        for units in utterances:
            state, total = self.model.start(False), 0.0
            for unit in units:
                state, score = self.model.score(state, self.words.get_index(str(unit)))
                total += score
            found.append((total + self.model.finish(state)[1]) * math.log(10))
        return np.array(found)


def read(folder: str) -> list[list[int]]:
    """The units of each utterance, without repeats."""
    rows = load_dataset(folder, split="train")
    if "durations" not in rows.column_names:
        raise SystemExit(f"{folder} holds a unit for each frame: make it without --keep_repeats.")
    return [units[: LONGEST - 2] for units in rows["units"][:] if len(units) > 1]


def main(argv: list[str] | None = None):
    """Trains, scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", required=True, help="The unit set, folder or Hub id.")
    parser.add_argument("--train", required=True, help="Folder that `features --units` has written.")
    parser.add_argument("--test", required=True, help="Another one, of speakers that are not in the first.")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--orders", type=int, nargs="*", default=[2, 3, 5], help="Of the n-gram models.")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    units = KMeansUnits.from_pretrained(args.units)
    tokenizer = units.tokenizer()
    training, test = read(args.train), read(args.test)
    texts, folder = list(map(as_text, training)), Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    model = train(texts, tokenizer, args)
    judges = {"GPT-2": lambda utterances: model_scores(model, tokenizer, utterances)}
    for order in args.orders:
        try:
            judges[f"{order}-grams"] = NGrams(texts, units.num_units, order, folder).scores
        except ImportError:
            print("No n-gram models: they need flashlight-text (pip install 'hf_ssl_speech[lm]').")
            break

    generator = np.random.default_rng(args.seed)
    changed = {block: [shuffled(each, block, generator) for each in test] for block in BLOCKS}
    predicted = sum(len(each) + 1 for each in test)
    results = {}
    for name, judge in judges.items():
        real = judge(test)
        results[name] = {"perplexity": math.exp(-real.sum() / predicted)}
        for block, others in changed.items():
            usable = [place for place, other in enumerate(others) if other is not None]
            won = real[usable] > judge([others[place] for place in usable])
            results[name][f"real preferred, blocks of {block}"] = float(won.mean()) if usable else None
            results[name][f"utterances, blocks of {block}"] = len(usable)
    facts = {"training": [len(training), sum(map(len, training))], "test": [len(test), predicted - len(test)]}
    (folder / "results.json").write_text(json.dumps(facts | {"settings": vars(args), "results": results}, indent=1))
    for name, found in results.items():
        print(name, {what: value if value is None else round(value, 3) for what, value in found.items()})


if __name__ == "__main__":
    main()
