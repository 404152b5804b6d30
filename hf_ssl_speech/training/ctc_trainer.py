"""Fine-tuning with CTC: the paper's learning rate, the frozen encoder, error rates and examples while training."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from transformers import Wav2Vec2Processor
from transformers.trainer_utils import EvalLoopOutput

from hf_ssl_speech.data.batching import DurationBatchSampler
from hf_ssl_speech.data.feature_extractor import check_rate
from hf_ssl_speech.models.heads import SSLSpeechForCTC
from hf_ssl_speech.recognition.ctc_collator import CTCCollator
from hf_ssl_speech.recognition.decoding import GreedyDecoder
from hf_ssl_speech.recognition.metrics import count_edits, show_edits
from hf_ssl_speech.recognition.normalization import TextNormalization
from hf_ssl_speech.recognition.text import find_case, spellable_characters
from hf_ssl_speech.training.arguments import SpeechCTCTrainingArguments
from hf_ssl_speech.training.blank import BLANK_COSTS, CalibrateBlank, cheapest, with_cost
from hf_ssl_speech.training.callbacks import Patience
from hf_ssl_speech.training.checks import refuse_config
from hf_ssl_speech.training.given_data import ready_for_ctc
from hf_ssl_speech.training.lora import ADAPTER_FOLDER, bare_model, has_adapters, merge_lora
from hf_ssl_speech.training.precision import refuse_low_precision
from hf_ssl_speech.training.trainer import SpeechTrainer

logger = logging.getLogger(__name__)


class SpeechCTCTrainer(SpeechTrainer):
    """The trainer of CTC models.

    Args:
        model: `SSLWav2Vec2ForCTC` or `SSLHubertForCTC`, also with adapters (`add_lora`); the arguments say which parts
            are frozen.
        args: Settings of the run.
        train_dataset: A `datasets` dataset with audio of any kind and transcripts, in a column `text` or with another
            usual name. It is prepared and labelled automatically, as by `prepare_speech` and `add_labels`: rows that
            can't be used are left out, named and counted. Rows that come from these functions are not changed.
        eval_dataset: The same, or several by name; their greedy transcripts are scored, and some are logged.
        processing_class: Feature extractor and tokenizer; saved with every checkpoint.
        normalization: How the transcripts are normalised; saved with the processor. By default the tokenizer's case,
            without punctuation.

    Raises:
        ValueError: If tokenizer and model don't belong together, see `Alphabet`.
    """

    args: SpeechCTCTrainingArguments
    own_metrics = ("wer", "cer", "variety")

    def __init__(
        self,
        model: SSLSpeechForCTC,
        args: SpeechCTCTrainingArguments,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        *,
        processing_class: Wav2Vec2Processor,
        normalization: TextNormalization | None = None,
        **kwargs,
    ):
        if train_dataset is not None:
            refuse_low_precision(model)
        refuse_config(model.config, predicts_hidden=False)
        check_rate(processing_class.feature_extractor, "The processing_class's model")
        tokenizer = processing_class.tokenizer
        normalization = normalization or TextNormalization(case=find_case(spellable_characters(tokenizer)))
        settings = {
            "normalize": processing_class.feature_extractor.do_normalize,
            "seed": args.order_seed,
        }
        if args.freeze_conv_encoder:
            model.freeze_feature_encoder()
        bare_model(model).thaw_update = args.frozen_updates(max(args.max_steps, 0))
        decoder = GreedyDecoder(tokenizer, model.config)  # the same one that evaluation scores with
        super().__init__(
            model,
            args,
            CTCCollator(model.config, args.speeds, **settings),
            CTCCollator(model.config, **settings, evaluation=True),
            partial(ready_for_ctc, args=args, tokenizer=tokenizer, normalization=normalization, config=model.config),
            train_dataset,
            eval_dataset,
            processing_class,
            **kwargs,
        )
        self.normalization = normalization
        self.decoder = decoder
        self.blank_costs = BLANK_COSTS if args.calibrate_blank else (0.0,)
        # Transcripts and what was heard at each cost, of the evaluation at hand.
        self.rows: list[tuple[str, Sequence[str]]] = []
        self.heard_before: dict[str, list[str]] = {}  # of all rows in the last evaluation, by its prefix
        if args.calibrate_blank:
            self.add_callback(CalibrateBlank(self))
        self.patience = Patience(args.early_stopping_patience) if args.early_stopping_patience else None
        if self.patience:
            self.add_callback(self.patience)

    def sampler(self, dataset: Dataset, **settings) -> DurationBatchSampler:
        """This rank's batches, with room for the slowest speed; one utterance always fits."""
        slowest = min([1.0, *self.args.speeds])
        fitting = max(self.args.batch_seconds * slowest, self.args.max_seconds)
        return super().sampler(dataset, **{"batch_seconds": fitting, **settings})

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to train, or it was stopped early."""
        return super().is_complete or (self.patience is not None and self.patience.exhausted)

    @property
    def more_to_record(self) -> dict[str, Any]:
        """How the transcripts are written."""
        return {"task": "ctc", "text": {"normalization": self.normalization.to_dict()}}

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's own; with `head_learning_rate` the head's weights, and those of a mix of layers, are groups of
        their own, the last ones."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.args.head_learning_rate is not None:
            weights = (model or self.model).named_parameters()
            head = {id(weight) for name, weight in weights if "lm_head." in name or name.endswith("layer_weights")}
            give_own_rate(optimizer, head, self.args.head_learning_rate)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """As in `SpeechTrainer`; from here on the number of updates with a frozen encoder is known."""
        bare_model(self.model).thaw_update = self.args.frozen_updates(num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the head's learning rate, if it has its own, to what `SpeechTrainer` logs."""
        if "learning_rate" in logs and self.args.head_learning_rate is not None:  # all groups have one schedule
            share = logs["learning_rate"] / self.args.learning_rate
            logs["head_learning_rate"] = share * self.args.head_learning_rate
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        """Saves the model; adapters are merged, so that it loads without PEFT, and also saved separately.

        Checkpoints (`_internal_call`) contain only the adapters and the head.
        """
        if _internal_call or not has_adapters(self.model):
            return super().save_model(output_dir, _internal_call)
        folder = output_dir or self.args.output_dir
        super().save_model(os.path.join(folder, ADAPTER_FOLDER))
        if self.args.should_save:
            merge_lora(self.model).save_pretrained(folder)
            self.processing_class.save_pretrained(folder)
            self.normalization.save_pretrained(folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None):
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # Trainer calls this in every process: two would write one file at a time
            self.normalization.save_pretrained(output_dir or self.args.output_dir)

    # Evaluation ----------------------------------------------------------------------------------------------------

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        """Loss, word and character error rate of a dataset; a few transcripts with their edits go to the log.

        Also how much the greedy transcripts differ from each other (see `variety`) and from those of the last
        evaluation (`changed`, the share of rows).
        """
        self.rows = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        place = self.blank_costs.index(output.metrics.get(f"{metric_key_prefix}_blank_cost", 0.0))
        rows = gather_object([(reference, heard[place]) for reference, heard in self.rows])
        heard, before = [each for _, each in rows], self.heard_before.get(metric_key_prefix, [])
        output.metrics[f"{metric_key_prefix}_variety"] = variety(rows)
        if rows and len(before) == len(heard):
            changed = sum(now != then for now, then in zip(heard, before))
            output.metrics[f"{metric_key_prefix}_changed"] = changed / len(heard)
        self.heard_before[metric_key_prefix] = heard
        # Take some from the whole range of transcripts.
        step = max(1, len(rows) // max(1, self.args.examples_shown))
        for reference, heard in sorted(rows)[::step][: self.args.examples_shown]:
            logger.info(show_edits(reference, heard))
        return output

    def evaluation_step(self, model, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Statistics of one batch, with the edits from the greedy to the true transcripts."""
        texts, usable = inputs.pop("texts"), (inputs["labels"] != -100).any(-1).tolist()  # unusable audio has no labels
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            outputs = model(**inputs)
        every_frame = torch.full(outputs.logits.shape[:1], outputs.logits.shape[1])  # padded ones are certain blanks
        heard = []  # at each cost, of each row
        for cost in self.blank_costs:
            logits = with_cost(outputs.logits, self.decoder.alphabet.blank, cost)
            heard.append([self.normalization(each.text) for each in self.decoder.decode(logits, every_frame)])
        rows = [(text, each) for text, each, is_usable in zip(texts, zip(*heard), usable) if is_usable]
        self.rows.extend(rows)
        return outputs.statistics | edit_statistics(rows, len(heard), outputs.logits.device)

    def metrics(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """The model's metrics, and errors by words and characters of the transcripts."""
        edits = {unit: statistics[f"{unit}_edits"].tolist() for unit in ("word", "character")}
        counted = "character" if (self.args.metric_for_best_model or "").endswith("cer") else "word"
        place = cheapest(edits[counted])
        found = {
            "wer": edits["word"][place] / max(int(statistics["words"]), 1),
            "cer": edits["character"][place] / max(int(statistics["characters"]), 1),
        }
        if self.args.calibrate_blank:
            found["blank_cost"] = self.blank_costs[place]
        return self.model.metrics(statistics) | found


def give_own_rate(optimizer: torch.optim.Optimizer, chosen: set[int], learning_rate: float):
    """Moves weights to separate parameter groups, which differ from the old ones only in the learning rate.

    Args:
        optimizer: The optimizer, before its first step.
        chosen: `id` of each weight that is moved.
    """
    for group in list(optimizer.param_groups):
        moved = [weight for weight in group["params"] if id(weight) in chosen]
        if moved:
            group["params"] = [weight for weight in group["params"] if id(weight) not in chosen]
            optimizer.add_param_group({**group, "params": moved, "lr": learning_rate})


def variety(rows: list[tuple[str, str]]) -> float:
    """How varied the predictions are, compared with the transcripts: 0 if all are the same, 1 if as varied as these.

    Args:
        rows: Transcript and what was heard, of each row.
    """
    references, heard = ({row[side] for row in rows} for side in (0, 1))
    return (len(heard) - 1) / (len(references) - 1) if len(references) > 1 else 1.0


def edit_statistics(rows: list[tuple[str, Sequence[str]]], costs: int, device: torch.device) -> dict[str, Tensor]:
    """Edits and lengths by words and by characters, to be added up.

    Args:
        rows: The transcript of each row, and what was heard in it at each cost of the blank.
        costs: Their number.
    Returns:
        `word_edits` and `character_edits`, `(costs,)`, and the transcripts' `words` and `characters`.
    """
    references, found = [text for text, _ in rows], {}
    for unit in ("word", "character"):
        counts = [count_edits([heard[place] for _, heard in rows], references, f"{unit}s") for place in range(costs)]
        found[f"{unit}_edits"] = torch.tensor([int(count.errors.sum()) for count in counts], device=device)
        found[f"{unit}s"] = torch.tensor(int(counts[0].reference_length.sum()), device=device)
    return found
