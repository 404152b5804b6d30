"""Training with transformers' Trainer: batches by duration, losses divided once, metrics over all ranks."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Sampler
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Processor
from transformers import trainer as stock_trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, rotate_checkpoints

from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.batching import DurationBatchedStream, DurationBatchSampler, SamplerOfParts
from hf_ssl_speech.data.collators import SpeechCollator
from hf_ssl_speech.data.mixing import MixedRows, Mixture, mixture_of, parts_of, told_levels
from hf_ssl_speech.data.processes import failing_together
from hf_ssl_speech.data.rows import numbers
from hf_ssl_speech.models.encoder import SSLSpeechPreTrainedModel
from hf_ssl_speech.training.arguments import SpeechTrainingArguments
from hf_ssl_speech.training.callbacks import ProgressLine, Schedules, Tally, only_weights, other_recipe
from hf_ssl_speech.training.checkpoints import holds_weights_alone, newest_whole, write_manifest
from hf_ssl_speech.training.compilation import compile_as_asked
from hf_ssl_speech.training.failed_step import FailedSteps
from hf_ssl_speech.training.full_batches import settle_batches
from hf_ssl_speech.training.given_data import GivenData, Ready, facts_of
from hf_ssl_speech.training.health import HealthCheck
from hf_ssl_speech.training.outcomes import UnhealthyRun
from hf_ssl_speech.training.record_keeper import recorded
from hf_ssl_speech.training.resting import exchange_gradients_of_all, reaching_all, rest
from hf_ssl_speech.training.resume import check_recipe, run_identity, without_stock_notice
from hf_ssl_speech.training.schedules import make_schedule
from hf_ssl_speech.training.stopping import ServeWhileTraining
from hf_ssl_speech.training.trainer_settings import refuse_arguments, refuse_metric

logger = logging.getLogger(__name__)

MEASURED_OF_PARTS = ("loss", "accuracy")


class SpeechTrainer(FailedSteps):
    """transformers' Trainer with batches by duration and metrics over all ranks, for every model of the package.

    Args:
        model: Returns `statistics`, sums over a batch, and turns added-up ones into values with `metrics`.
        args: Settings of the run.
        data_collator, evaluation_collator: Make the batches of training and of evaluation.
        ready: Prepares the rows of a dataset, given its name: of those below, and of datasets evaluated later.
        train_dataset: A `datasets` dataset, streamed or not.
        eval_dataset: A dataset, or several by name.
        processing_class: What is saved with the model: the feature extractor or the processor.

    A training writes `run.json` and `training.png` to the output folder. A loss is divided once, by the number of
    predictions in the whole update, over accumulation and ranks. Every log line has the model's metrics since the last
    one.
    """

    args: SpeechTrainingArguments
    model: Any  # one of the package: `config`, `metrics` and `set_update` are asked of it
    data_collator: Any  # a SpeechCollator
    own_metrics: tuple[str, ...] = ()  # what `metrics` adds to the model's in every evaluation

    def __init__(
        self,
        model: SSLSpeechPreTrainedModel,
        args: SpeechTrainingArguments,
        data_collator: SpeechCollator,
        evaluation_collator: SpeechCollator,
        ready: Ready,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: Wav2Vec2FeatureExtractor | Wav2Vec2Processor | None = None,
        **kwargs,
    ):
        refuse_arguments(kwargs)
        refuse_metric(args, [*model.metric_names, *self.own_metrics], eval_dataset)
        self.ready = ready
        self.given: dict[str, GivenData] = {}  # by their names in the record
        if train_dataset is not None:
            train_dataset = self.take(train_dataset, "train")
        if isinstance(eval_dataset, dict):
            eval_dataset = {name: self.take(rows, f"validation {name}") for name, rows in eval_dataset.items()}
        elif eval_dataset is not None:
            eval_dataset = self.take(eval_dataset, "validation")
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        compile_as_asked(model, args, self.accelerator)
        exchange_gradients_of_all(self.accelerator)
        self.evaluation_collator = evaluation_collator
        self.mixture: Mixture | None = None  # None: every row once in each epoch
        self.parts: Mixture | None = None  # of which the record tells
        self.data_collator.levels = told_levels(train_dataset, args.levels)
        if isinstance(train_dataset, Dataset):
            self.mixture = mixture_of(train_dataset, args.weights, args.mix_by, args.max_seconds)
            self.parts = self.mixture or parts_of(train_dataset, self.data_collator.levels, args.max_seconds)
        self.statistics: dict[str, Tensor] = {}  # this rank's, since they were last collected
        self.samples = 0
        self.samples_of: Counter[str] = Counter()  # each part of the data, as `samples`
        self.window: dict[str, Tensor] = {}  # all ranks', since the last log
        self.window_samples, self.window_start = 0, time.perf_counter()
        self.loss_since_log: float | None = None  # the mean over ranks, when health was last looked at
        self.skipped_rows: dict[str, str] = {}
        self.serving = ServeWhileTraining()
        self.tally = Tally(self)
        self.add_callback(self.tally)
        self.add_callback(Schedules(self.data_collator))
        self.add_callback(HealthCheck())
        if not args.disable_tqdm:
            self.remove_callback(stock_trainer.DEFAULT_PROGRESS_CALLBACK)  # in a notebook it is another one
            self.add_callback(ProgressLine)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to train."""
        return self.state.global_step >= self.state.max_steps

    # Data ----------------------------------------------------------------------------------------------------------

    def take(self, dataset: Any, part: str) -> Dataset | IterableDataset:
        """A dataset's rows, made ready; the record tells of them under the name of the part."""
        self.given[part] = self.ready(dataset, part)
        return self.given[part].rows

    def get_train_dataloader(self) -> DataLoader:
        """Batches of at most `batch_seconds`; every rank draws its own from one common order."""
        if isinstance(self.train_dataset, IterableDataset):
            args = self.args
            stream = DurationBatchedStream(
                split_dataset_by_node(self.train_dataset, args.process_index, args.world_size),
                batch_seconds=args.batch_seconds,
                max_seconds=args.max_seconds,
                crop=self.data_collator.crop_lengths,
                buffer_seconds=args.buffer_seconds,
                seed=self.data_collator.seed,
            )
            return self.dataloader(stream, self.data_collator, batch_size=None)
        sampler = self.training_sampler()
        logger.info(f"Training batches: {sampler}")
        if sampler.equal and sampler.mean_seconds < self.args.batch_seconds / 2:
            logger.warning(
                f"Batches of one length hold {sampler.mean_seconds:.1f} s, not {self.args.batch_seconds:g} s, since "
                "few of these utterances are equally long: set crop_to_frames to 0, as for short utterances."
            )
        rows = self.train_dataset
        if self.mixture:
            logger.info(f"Mixture: {self.mixture}")
            rows = MixedRows(rows)
        return self.dataloader(rows, self.data_collator, batch_sampler=sampler)

    def training_sampler(self) -> DurationBatchSampler:
        """This rank's batches of the training rows, mixed as the arguments say."""
        settings = {"batches_per_update": self.args.batches_per_update, "mixture": self.mixture}
        return self.sampler(self.train_dataset, shuffle=True, crop=self.data_collator.crop_lengths, **settings)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """The same rows in the same batches every time, shared out among ranks."""
        if eval_dataset is None:
            eval_dataset = self.eval_dataset
        elif isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset[eval_dataset]
        eval_dataset = self.ready(eval_dataset, "evaluation").rows
        self.evaluation_collator.levels = told_levels(eval_dataset, self.args.levels)
        parts = parts_of(eval_dataset, self.evaluation_collator.levels)
        if parts:
            rows = [part.rows for part in parts.parts]
            sampler: Sampler = SamplerOfParts(
                [(each, self.sampler(eval_dataset.select(each), shuffle=False)) for each in rows]
            )
        else:
            sampler = self.sampler(eval_dataset, shuffle=False)
        return self.dataloader(eval_dataset, self.evaluation_collator, batch_sampler=sampler)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """The batches of `predict`, as those of an evaluation."""
        return self.get_eval_dataloader(test_dataset)

    def sampler(self, dataset: Dataset, **settings) -> DurationBatchSampler:
        """This rank's batches of a dataset."""
        args, lengths = self.args, numbers(dataset, "num_samples")
        settings = {"batch_seconds": args.batch_seconds, "max_seconds": args.max_seconds, **settings}
        ranks = {"num_replicas": args.world_size, "rank": args.process_index}
        return DurationBatchSampler(lengths, seed=self.data_collator.seed, **ranks, **settings)

    def dataloader(self, dataset: Any, collator: SpeechCollator, **batching) -> DataLoader:
        """Workers as the arguments say. Not prepared by Accelerate: the sampler already shares batches among ranks."""
        args = self.args
        return DataLoader(
            dataset,
            collate_fn=collator,
            # A loader draws a random number when it starts, and persistent workers start at other moments than fresh
            # ones. If the number came from torch's own generator, this would change dropout.
            generator=torch.Generator(),
            num_workers=args.dataloader_num_workers,
            worker_init_fn=self.serving,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            **batching,
        )

    # Training ------------------------------------------------------------------------------------------------------

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The schedule that the arguments name, unless one was given."""
        if self.lr_scheduler is None:
            self.lr_scheduler = make_schedule(self.args, optimizer or self.optimizer, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Trainer's own; if the run is asked to stop, loader workers live until the end of the update.

        A record is kept in the output folder.

        Raises:
            ValueError: If there are no rows, or the checkpoint belongs to a run with another recipe.
        """
        if self.train_dataset is None:
            raise ValueError("There are no training data: give the trainer a `train_dataset`.")
        settle_batches(self)
        facts = {part: facts_of(given) for part, given in self.given.items()}
        fingerprints = {part: fact["fingerprint"] for part, fact in facts.items()}
        identity = run_identity(self.model.config, fingerprints, self.args)
        check_recipe(resume_from_checkpoint, identity, self.args)
        record = recorded(self, identity, facts, self.more_to_record)
        with self.serving.while_training(), record, without_stock_notice():
            return super().train(resume_from_checkpoint, **kwargs)

    def training_step(self, model, inputs: dict[str, Any], num_items_in_batch=None) -> Tensor:
        """One micro-batch, its audio counted."""
        self.skipped_rows.update(inputs.pop("skipped_rows"))
        self.samples_of.update(inputs.pop("samples_of", {}))
        mask = inputs.get("attention_mask")
        # The batch is still on the CPU, where NumPy counts truths ten times as fast as torch.
        self.samples += inputs["input_values"].numel() if mask is None else int(np.count_nonzero(mask))
        loss = super().training_step(model, inputs, num_items_in_batch)
        rest(self.model)
        return loss

    def _prepare_input(self, data: Any) -> Any:
        """Trainer's own, but the host does not wait until a batch in pinned memory has reached the device."""
        if isinstance(data, Tensor) and not self.is_deepspeed_enabled:
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor | int | None:
        """Trainer's own, counted on the device: it would wait for a number counted on the CPU to get there."""
        labels = [{"labels": self._prepare_input(batch["labels"])} for batch in batch_samples]
        return super()._get_num_items_in_batch(labels, device)

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """The model's own loss; its statistics are added up, on the device, until the next log."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        add_statistics(self.statistics, outputs.statistics)
        loss = reaching_all(loss, model, self.model)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the model's metrics, throughput and hours seen, over all ranks, to a training log."""
        if "train_loss" in logs:  # Trainer's own counts the updates since the last start only
            logs["train_loss"] = self.loss_sum / max(self.state.global_step, 1)
        if "loss" in logs and self.statistics:
            self.collect()
            logs |= self.model.metrics(self.window)
            logs["audio_seconds_per_second"] = (
                self.window_samples / SAMPLE_RATE / (time.perf_counter() - self.window_start)
            )
            logs["hours_seen"] = self.tally.hours_seen
            self.window, self.window_samples, self.window_start = {}, 0, time.perf_counter()
        super().log(logs, start_time)

    @property
    def kept_update(self) -> int:
        """The update whose weights are saved in the end."""
        best = self.state.best_model_checkpoint
        return int(best.rsplit("-", 1)[1]) if best and self.args.load_best_model_at_end else self.state.global_step

    @property
    def more_to_record(self) -> dict[str, Any]:
        """Entries of the record that not every training has."""
        return {}

    @property
    def loss_sum(self) -> float:
        """Sum of the logged losses of all updates, those before a resume too, up to the last log."""
        return self.tally.earlier_loss_sum + self._total_loss_scalar

    def _run_epoch(self, **settings):
        """An epoch, or none after a resume from the last update's checkpoint: Trainer would train one more."""
        if self.is_complete:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**settings)

    def collect(self):
        """Adds what every rank has counted since the last time to the window and the tally."""
        statistics, samples = self.gather(self.statistics, self.samples)
        add_statistics(self.window, statistics)
        self.window_samples += samples
        self.tally.samples_seen += samples
        if self.data_collator.levels:
            for counts in gather_object([dict(self.samples_of)]):
                self.tally.samples_of.update(counts)
        self.statistics, self.samples, self.samples_of = {}, 0, Counter()

    def gather(self, statistics: dict[str, Tensor], samples: int = 0) -> tuple[dict[str, Tensor], int]:
        """Statistics and samples added up over ranks, and everyone's skipped rows."""
        ranks = gather_object([({name: value.cpu() for name, value in statistics.items()}, samples, self.skipped_rows)])
        total: dict[str, Tensor] = {}
        for rank_statistics, _, skipped_rows in ranks:
            add_statistics(total, rank_statistics)
            self.skipped_rows.update(skipped_rows)
        return total, sum(samples for _, samples, _ in ranks)

    def _save_checkpoint(self, model, trial):
        """Counts what has been seen up to here, and saves what is healthy; old checkpoints go once the new is whole.

        Raises:
            UnhealthyRun: If the loss or a weight is not finite, or the checkpoint can't be written.
        """
        self.collect()
        self.check_health()
        args, folder = self.args, self._get_output_dir(trial)
        checkpoint = Path(folder, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if args.should_save:
            shutil.rmtree(checkpoint, ignore_errors=True)  # the remains of one that was passed over
        self.accelerator.wait_for_everyone()
        limit, args.save_total_limit = args.save_total_limit, None
        try:
            with failing_together():  # every rank has written its random state
                super()._save_checkpoint(model, trial)
            with failing_together():
                if args.should_save:
                    write_manifest(checkpoint)
        except (OSError, RuntimeError, SafetensorError) as error:  # each library has its own for a full disk
            raise self.not_saved(checkpoint, error) from error
        finally:
            args.save_total_limit = limit
        if args.should_save:
            rotate_checkpoints(folder, limit, self.state.best_model_checkpoint, use_mtime=True)

    def not_saved(self, checkpoint: Path, error: Exception) -> UnhealthyRun:
        """The error of a checkpoint that can't be written. Its files are deleted; earlier checkpoints stay."""
        if self.args.should_save:
            shutil.rmtree(checkpoint, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        last = newest_whole(checkpoint.parent)
        way_out = f"goes on from {last}, which is whole" if last else "begins anew: no checkpoint is whole yet"
        return UnhealthyRun(
            f"{checkpoint} can't be written ({error}). Fix the cause, such as a full disk, and start the run again: "
            f"it {way_out}."
        )

    @torch.no_grad()
    def check_health(self):
        """Checks the loss since the last log and every weight: before an evaluation, a checkpoint and the end.

        Raises:
            UnhealthyRun: On all ranks, if one of them is not finite.
        """
        self.loss_since_log = self.accelerator.gather(self._tr_loss).mean().item()
        mine = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in self.model.parameters())
        sums = torch.stack([weight.sum(dtype=torch.float32) for weight in mine])
        healthy = torch.isfinite(sums).all() & math.isfinite(self.loss_since_log)
        if not self.accelerator.gather(healthy[None]).all():
            raise UnhealthyRun(
                f"A weight or the loss is not finite at update {self.state.global_step}: the run diverged, and nothing "
                f"of this update is kept. {other_recipe(newest_whole(self.args.output_dir))}"
            )

    def hyperparameter_search(self, *args, **kwargs):
        """Refused: a search would mix the records and checkpoints of its trials.

        Raises:
            ValueError: Always, with what to do instead.
        """
        raise ValueError(
            "hyperparameter_search is not supported, since a record and its checkpoints belong to one run: in a loop, "
            "make a model and a trainer with its own `output_dir` per setting, and compare what `evaluate` returns."
        )

    def _evaluate(self, *args, **kwargs):
        """Trainer's evaluation while training, of a healthy model: no other can be the best one."""
        self.check_health()
        return super()._evaluate(*args, **kwargs)

    def _finalize_training(self, *args, **kwargs):
        """Trainer's end of a training; what is to be saved then is healthy."""
        self.check_health()
        return super()._finalize_training(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None):
        """Trainer's own would silently continue with a fresh optimizer and a learning rate of 0.

        Raises:
            ValueError: If the checkpoint holds none.
        """
        if checkpoint is not None and holds_weights_alone(checkpoint):
            raise ValueError(only_weights(checkpoint))
        super()._load_optimizer_and_scheduler(checkpoint)

    # Evaluation ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluation_loop(
        self, dataloader: DataLoader, description: str, *args, metric_key_prefix: str = "eval", **kwargs
    ) -> EvalLoopOutput:
        """Metrics over a whole dataset, the same for any number of ranks."""
        started = time.perf_counter()
        prepared = bool(self.accelerator._models)
        model = self.model if prepared else self.accelerator.prepare_model(self.model, evaluation_mode=True)
        model.eval()
        statistics: dict[str, Tensor] = {}
        of_parts: dict[str, dict[str, Tensor]] = {}
        for inputs in dataloader:
            self.skipped_rows.update(inputs.pop("skipped_rows"))
            parts = inputs.pop("samples_of", {})
            found = self.evaluation_step(model, inputs)
            add_statistics(statistics, found)
            for part in parts:  # no more than one
                add_statistics(of_parts.setdefault(part, {}), found)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        statistics, _ = self.gather(statistics)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.metrics(statistics).items()}
        metrics |= {f"{metric_key_prefix}_{name}": value for name, value in self.metrics_of_parts(of_parts).items()}
        # The time spent here is not the training's.
        self.window_start += time.perf_counter() - started
        return EvalLoopOutput(None, None, metrics, len(dataloader.dataset))

    def evaluation_step(self, model, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Statistics of one batch."""
        with self.compute_loss_context_manager():
            return model(**self._prepare_inputs(inputs)).statistics

    def metrics_of_parts(self, statistics: dict[str, dict[str, Tensor]]) -> dict[str, float]:
        """Loss and accuracy on each corpus, or part of one, where there are several: `loss_english`."""
        if not self.evaluation_collator.levels:
            return {}
        names = sorted({name for each in gather_object([list(statistics)]) for name in each})
        found = {name: self.model.metrics(self.gather(statistics.get(name, {}))[0]) for name in names}
        return {
            f"{metric}_{name}": value
            for name, metrics in found.items()
            for metric, value in metrics.items()
            if metric in MEASURED_OF_PARTS and len(names) > 1
        }

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """The metrics of an evaluation's added-up statistics."""
        return self.model.metrics(statistics)


def add_statistics(total: dict[str, Tensor], more: dict[str, Tensor]):
    """Adds sums to sums, in float64 or int64 where they grow."""
    for name, value in more.items():
        value = value.double() if value.is_floating_point() else value
        total[name] = total[name] + value if name in total else value
