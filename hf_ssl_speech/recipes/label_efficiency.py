"""Errors against minutes of labels: every start is fine-tuned on every amount with every seed, equally long."""

from __future__ import annotations

import copy
import dataclasses
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedConfig, set_seed
from transformers.trainer_utils import sort_checkpoints

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.processes import rank_and_size
from hf_ssl_speech.evaluation.comparison import (
    EvaluationSet,
    ModelScores,
    describe_device,
    load_evaluation_set,
    save_scores,
    score_entry,
)
from hf_ssl_speech.models.classes import config_class_of
from hf_ssl_speech.models.frames import num_frames
from hf_ssl_speech.recipes.arguments import LabelEfficiencyArguments
from hf_ssl_speech.recipes.finetuning import (
    Transcripts,
    find_feature_extractor,
    finetune,
    identify,
    load_transcribed,
    make_recognizer,
    settle,
)
from hf_ssl_speech.recipes.inputs import SpeechCTCModelArguments, SpeechDataArguments, SpeechTextArguments
from hf_ssl_speech.recipes.label_efficiency_report import CONFIDENCE, measures_of, write_results
from hf_ssl_speech.recipes.splits import Split, hold_out, part_facts, with_a_share, with_test
from hf_ssl_speech.recipes.starting_points import is_recognizer, stock_config
from hf_ssl_speech.recognition.metrics import count_edits
from hf_ssl_speech.recognition.transcription import load_recognizer, transcribe
from hf_ssl_speech.records import read_record, write_record
from hf_ssl_speech.training.arguments import SpeechCTCTrainingArguments
from hf_ssl_speech.training.checkpoints import newest_whole
from hf_ssl_speech.training.lock import hold
from hf_ssl_speech.training.outcomes import AlreadyComplete, UnhealthyRun
from hf_ssl_speech.training.resume import differences

logger = logging.getLogger(__name__)

# Fields of a checkpoint's configuration that fresh weights don't take over; the vocabulary comes from the transcripts.
NOT_OF_THE_ARCHITECTURE = {"vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "feature_gradient_scale"}
WINDOW = 16 * SAMPLE_RATE  # long enough to tell which of two encoders makes more frames
GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Cell:
    """One training: what it starts from, its minutes of labels (or `all`), and its seed."""

    start: str
    minutes: str
    seed: int

    @property
    def folder(self) -> Path:
        """Its folder inside the output folder."""
        amount = self.minutes if self.minutes == "all" else f"{float(self.minutes):g}min"
        return Path(self.start, amount, f"seed-{self.seed}")

    def __str__(self) -> str:
        return (
            f"{self.start}, {'all' if self.minutes == 'all' else self.minutes + ' minutes of'} labels, seed {self.seed}"
        )


class LabelEfficiency:
    """Fine-tunes every start on every amount of labels with every seed, and scores the results.

    Each cell has a folder under `args.output_dir`. A finished cell is read from its `run.json`; an interrupted one goes
    on. All cells share the vocabulary of all training transcripts, and use the same usable rows. The best checkpoint of
    a cell is chosen on validation rows; the test rows are only scored.

    Args:
        model_args: The model of `scratch`, and fields of every model's config.
        data_args, text_args: The transcribed speech that labels are taken from, and its spelling.
        args: Settings of every cell's training.
        settings: Starts, amounts of labels, seeds and test data.
    Raises:
        ValueError: If the data can't be used, or there is less of it than an amount of labels asks for.
    """

    def __init__(
        self,
        model_args: SpeechCTCModelArguments,
        data_args: SpeechDataArguments,
        text_args: SpeechTextArguments,
        args: SpeechCTCTrainingArguments,
        settings: LabelEfficiencyArguments,
    ):
        if model_args.model_name_or_path:
            raise ValueError("Name every checkpoint among `starts`, as NAME=CHECKPOINT, not in `model_name_or_path`.")
        self.data_args, self.text_args, self.args, self.settings = data_args, text_args, args, settings
        self.folder = Path(args.output_dir)
        self.models = {name: self.model_of(path, model_args) for name, path in settings.named_starts.items()}
        configs = []
        for name, each in self.models.items():  # errors in one show before the data is prepared
            logger.info(f"{name}: {each.model_name_or_path or 'fresh weights'}")
            configs.append(make_recognizer(each, None, new_vocabulary=True).config)
        self.test_args = with_test(data_args, settings.test_data, settings.test_split)
        train = load_transcribed("train", data_args, args, text_args, keep=[settings.speaker_column])
        validation = load_transcribed("validation", data_args, args, text_args, beside=train)
        train, validation = hold_out(train, validation, with_a_share(data_args))
        # Spelt once for all cells, which only choose among these rows: what the model with the fewest frames can learn.
        feature_extractor = find_feature_extractor(next(iter(self.models.values())))
        given = Transcripts.given(text_args, feature_extractor, None)
        self.transcripts = given or Transcripts.of_rows(train, text_args, feature_extractor)
        fewest = min(configs, key=lambda config: int(num_frames(torch.tensor(WINDOW), config.conv_layers)))
        self.train = self.transcripts.label(train, "train", fewest, args, data_args)
        self.validation = self.transcripts.label(validation, "validation", fewest, args, data_args)
        self.measures = measures_of(self.transcripts.processor.tokenizer)
        self.shares = self.draw()
        self.test = self.load_test()

    def run(self):
        """Trains and scores the cells that are not finished, and writes the results after each.

        With `preflight_only`, only checks every start with the smallest amount of labels.
        """
        if self.args.preflight_only:
            for name in self.models:
                self.train_cell(Cell(name, self.settings.minutes[0], self.settings.seeds[0]))
            return
        hold(self.folder)
        # Amount by amount, so that an interrupted run has compared all starts on some of them.
        cells = [Cell(name, *rest) for *rest, name in product(self.settings.minutes, self.settings.seeds, self.models)]
        finished: dict[Cell, dict[str, Any]] = {}
        for number, cell in enumerate(cells, 1):
            logger.info(f"Cell {number} of {len(cells)}: {cell}")
            began = time.perf_counter()
            record = self.train_cell(cell)
            finished[cell] = record
            rates = self.rates(record)
            told = ", ".join(f"{label} {rates[name]:.1%}" for name, (_, label) in self.measures.items())
            logger.info(f"{cell}: {told}, {time.perf_counter() - began:.0f} s")
            if PartialState().is_main_process:
                self.write(finished)
        logger.info(f"All {len(cells)} cells are finished; results.json, report.md and curve.png are in {self.folder}")

    # Data ----------------------------------------------------------------------------------------------------------

    def load_test(self) -> EvaluationSet:
        """The test rows, with texts normalised as in training."""
        with PartialState().local_main_process_first():
            return load_evaluation_set(
                self.test_args.test_data,
                self.transcripts.normalization,
                split=self.test_args.test_split,
                text_column=self.text_args.text_column,
                num_proc=self.data_args.prepare_workers,
                name=self.data_args.dataset_config,
                audio_column=self.data_args.audio_column,
            )

    def draw(self) -> dict[tuple[str, int], Split]:
        """The rows of each amount of labels and seed; a smaller amount is the beginning of a larger one."""
        rows = self.train.rows
        seconds = np.array(rows["num_samples"]) / SAMPLE_RATE
        column = self.settings.speaker_column
        speakers = rows[column] if column in rows.column_names else [None] * len(rows)
        found = {}
        for seed in self.settings.seeds:
            order = nested_order(seconds, speakers, seed)
            for minutes in self.settings.minutes:
                chosen = rows.select(order[: count_within(seconds[order], minutes)])
                found[minutes, seed] = Split(chosen, part_facts(self.train.facts, chosen))
        return found

    # Cells ---------------------------------------------------------------------------------------------------------

    def model_of(self, path: str | None, model_args: SpeechCTCModelArguments) -> SpeechCTCModelArguments:
        """The model of a start; fresh weights get the architecture of the first checkpoint, if there is one."""
        like = next(filter(None, self.settings.named_starts.values()), None)
        if path or not like:
            return replace(model_args, model_name_or_path=path)
        config_class = config_class_of(stock_config(like).model_type)
        config = config_class.from_pretrained(like)
        names = {each.name for each in dataclasses.fields(config)}
        names -= {each.name for each in dataclasses.fields(PreTrainedConfig)} | NOT_OF_THE_ARCHITECTURE
        fields = {name: getattr(config, name) for name in sorted(names)} | model_args.config
        return replace(model_args, objective=config_class.stock_model_type, config=fields)

    def train_cell(self, cell: Cell) -> dict[str, Any]:
        """Trains and scores a cell unless it is finished; returns its record.

        If the training was stopped because it learnt nothing, its newest checkpoint is scored: with so few labels, that
        is the result.
        """
        args, model_args = copy.copy(self.args), self.models[cell.start]
        args.seed, args.output_dir = cell.seed, str(self.folder / cell.folder)
        start = model_args.model_name_or_path
        args = settle(args, self.validation, start)
        train, validation = self.shares[cell.minutes, cell.seed], self.validation
        transcripts = self.transcripts.of_part(train.rows, find_feature_extractor(model_args))
        transcripts.facts["new_vocabulary"] = bool(start) and is_recognizer(start)
        set_seed(cell.seed)
        model = make_recognizer(model_args, transcripts, new_vocabulary=True)
        facts = {"train": train.facts, "validation": validation.facts}
        identity = identify(model, args, facts, transcripts, start)
        if self.is_finished(args.output_dir, identity):
            logger.info(f"{cell} is finished")
            return read_record(args.output_dir)
        trained = args.output_dir
        try:
            finetune(model, args, train, validation, transcripts, start)
        except AlreadyComplete:
            logger.info(f"{cell} is trained, but not scored")
        except UnhealthyRun as stopped:
            trained = newest_whole(args.output_dir)
            if trained is None:
                raise
            logger.warning(f"{cell}: the training was stopped, and its newest checkpoint is scored. {stopped}")
        if args.preflight_only:
            return {}
        PartialState().wait_for_everyone()
        self.score(trained, args.output_dir)
        return read_record(args.output_dir)

    def is_finished(self, folder: str, identity: dict[str, Any]) -> bool:
        """Whether a cell of these settings is trained and scored on the test rows."""
        record = read_record(folder)
        scored = record is not None and record["test"].get("fingerprint") == self.test.facts["fingerprint"]
        return scored and not differences(record["identity"], identity)

    def score(self, trained: str, folder: str):
        """Scores the test rows in all processes: writes their errors to the cell's record, and `scores.json`."""
        (rank, size), started = rank_and_size(), time.perf_counter()
        model, processor = load_recognizer(trained, device=self.args.device)
        own = range(rank, len(self.test.rows), size)
        progress = not self.args.disable_tqdm and rank == 0
        found = transcribe(model, processor, self.test.rows.select(own), progress=progress)
        heard = dict(gather_object([(place, self.test.normalization(each.text)) for place, each in zip(own, found)]))
        if PartialState().is_main_process:
            texts = [heard[place] for place in range(len(heard))]
            scores = ModelScores(
                name=folder,
                decoder={"kind": "greedy"},
                parameters=model.num_parameters(),
                predictions=texts,
                words=count_edits(texts, self.test.references, "words"),
                characters=count_edits(texts, self.test.references, "characters"),
                seconds=time.perf_counter() - started,
                device=describe_device(model.device),
            )
            entry = score_entry(scores, self.test, confidence=CONFIDENCE, bootstrap=1000, seed=0)
            save_scores([{name: value for name, value in entry.items() if name != "model"}], folder)
            found = {
                **entry["data"],
                "errors": {unit: getattr(scores, unit).errors.tolist() for unit in ("words", "characters")},
                "heard": texts,
                "references": self.test.references,
            }
            write_record(read_record(folder) | {"test": found}, folder)
            for checkpoint in sort_checkpoints(folder):
                if checkpoint != trained:  # a finished cell needs no other checkpoint
                    shutil.rmtree(checkpoint)
        PartialState().wait_for_everyone()

    # Results -------------------------------------------------------------------------------------------------------

    @cached_property
    def lengths(self) -> dict[str, np.ndarray]:
        """Words and characters of each test row."""
        references = self.test.references
        return {unit: count_edits(references, references, unit).reference_length for unit in ("words", "characters")}

    def rates(self, record: dict[str, Any]) -> dict[str, float]:
        """The error rates of a cell on the test rows."""
        lengths, errors = self.lengths, record["test"]["errors"]
        return {name: sum(errors[unit]) / int(lengths[unit].sum()) for name, (unit, _) in self.measures.items()}

    def write(self, finished: dict[Cell, dict[str, Any]]):
        """Writes the results of the finished cells."""
        cells = [
            {
                "start": cell.start,
                "minutes": cell.minutes,
                "minutes_used": record["data"]["train"]["hours"] * 60,
                "seed": cell.seed,
                "folder": str(cell.folder),
                "status": record["status"],
                "updates": record["updates"],
                "kept_update": record["kept_update"],
                "seconds": record["seconds"],
                **self.rates(record),
                "errors": record["test"]["errors"],
            }
            for cell, record in finished.items()
        ]
        facts = {"train": self.train.facts, "validation": self.validation.facts, "test": self.test.facts}
        about = {
            "starts": {name: each.model_name_or_path for name, each in self.models.items()},
            "updates": self.args.max_steps,
            "data": {
                part: {name: fact[name] for name in ("source", "rows", "hours", "fingerprint")}
                for part, fact in facts.items()
            },
        }
        write_results(cells, self.lengths, about, self.folder, self.measures)


def nested_order(seconds: Sequence[float], speakers: Sequence[Any], seed: int) -> np.ndarray:
    """Orders rows so that every beginning has an equal share of each speaker, and of short and long rows of each.

    Args:
        seconds: Length of each row.
        speakers: Speaker of each row.
        seed: Other seeds give other orders.
    """
    generator = np.random.default_rng(seed)
    seconds, speakers = np.asarray(seconds), np.array(list(map(str, speakers)))
    turns = np.empty((len(seconds), 2))
    for number, speaker in enumerate(generator.permutation(np.unique(speakers))):
        rows = generator.permutation(np.flatnonzero(speakers == speaker))
        rows = rows[np.argsort(seconds[rows], kind="stable")]
        # Steps of the golden ratio, modulo 1, spread evenly over the rows, which are sorted by length.
        spread = (generator.random() + GOLDEN_RATIO * np.arange(len(rows))) % 1
        turns[rows, 0], turns[rows, 1] = spread.argsort().argsort(), number
    return np.lexsort((turns[:, 1], turns[:, 0]))


def count_within(seconds: np.ndarray, minutes: str) -> int:
    """How many of the first rows last together no longer than some minutes.

    Args:
        seconds: Length of each row.
        minutes: A number, or `all`.
    Raises:
        ValueError: If all rows together are shorter, or the first row is longer.
    """
    if minutes == "all":
        return len(seconds)
    there, budget = float(seconds.sum()), 60 * float(minutes)
    if budget > there * (1 + 1e-9):
        raise ValueError(
            f"There are {there / 60:.1f} minutes of transcribed speech to learn from, but minutes asks for {minutes}: "
            "ask for less, or for `all`."
        )
    count = int(np.searchsorted(np.cumsum(seconds), budget * (1 + 1e-9), side="right"))
    if count == 0:
        raise ValueError(f"The first row lasts {seconds[0]:.1f} s, more than the {minutes} minutes that are asked for.")
    return count
