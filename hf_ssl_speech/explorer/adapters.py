"""A recogniser beside the model that it was fine-tuned from by LoRA: the same weights, small adapters and a head."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.explorer.runs import record_of, short_names
from hf_ssl_speech.hub.exchange import load_model
from hf_ssl_speech.models.heads import SSLHubertForCTC
from hf_ssl_speech.models.pretraining import SSLHubertForPreTraining
from hf_ssl_speech.recognition.transcription import load_processor

# Of the largest difference: merging adapters into float32 weights leaves about 1e-6 beside their rank.
ROUNDING = 1e-4


class Adapted(nn.Module):
    """A linear layer, and what fine-tuning added to it: a matrix of low rank as two thin ones."""

    def __init__(self, layer: nn.Linear, down: Tensor, up: Tensor):
        super().__init__()
        self.layer, self.down, self.up = layer, nn.Parameter(down), nn.Parameter(up)

    def forward(self, values: Tensor) -> Tensor:
        return self.layer(values) + values @ self.down @ self.up


class Letters(nn.Module):
    """A recogniser from frames on: the transformer with its adapters, and the head."""

    def __init__(self, model: SSLHubertForPreTraining, recognizer: SSLHubertForCTC):
        """Takes from the recogniser only in what it differs.

        Raises:
            ValueError: If it differs in more than adapters of linear layers.
        """
        super().__init__()
        self.transformer = copy.deepcopy(model.hubert.encoder)
        self.lm_head = recognizer.lm_head
        tuned = dict(recognizer.hubert.named_parameters())
        for name, weight in model.hubert.named_parameters():
            if name not in tuned or tuned[name].shape != weight.shape:
                raise ValueError(
                    "The recogniser has another shape than the run: fine-tune it from the run with --lora."
                )
            if torch.equal(tuned[name], weight):
                continue
            path, _, kind = name.removeprefix("encoder.").rpartition(".")
            factors = low_rank((tuned[name] - weight).detach()) if name.startswith("encoder.") else None
            if kind != "weight" or factors is None:
                raise ValueError(
                    f"The recogniser differs from the run in {name} by more than an adapter, so that it does not fit "
                    "beside it: fine-tune it from the run with --lora."
                )
            self.transformer.set_submodule(path, Adapted(self.transformer.get_submodule(path), *factors))

    def forward(self, frames: Tensor) -> Tensor:
        """Logits of the tokens, `(batch, frames, tokens)`."""
        hidden, _, _ = self.transformer(frames, None, output_hidden_states=False, output_attentions=False)
        return self.lm_head(hidden)


def low_rank(difference: Tensor) -> tuple[Tensor, Tensor] | None:
    """A matrix `(outputs, inputs)` of low rank as two: `(inputs, rank)` and `(rank, outputs)`; None for any other."""
    if difference.dim() != 2:
        return None
    left, values, right = torch.linalg.svd(difference.double(), full_matrices=False)
    rank = int((values > ROUNDING * values[0]).sum())
    if 2 * rank > len(values):
        return None
    halves = values[:rank].sqrt()
    return (right[:rank].T * halves).float(), (left[:, :rank] * halves).T.float()


def load_letters(run: str, model: SSLHubertForPreTraining, normalize: bool) -> Letters:
    """A recogniser, of a run that started from the model's.

    Raises:
        ValueError: If it is none, or differs from the model in more than adapters.
    """
    recognizer = load_model(run)
    if not isinstance(recognizer, SSLHubertForCTC) or recognizer.config.ctc_layer_mix:
        raise ValueError(f"{run} holds no HuBERT recogniser on the last layer: give the folder of `finetune --lora`.")
    if bool(feature_extractor_for(recognizer.config, run).do_normalize) != normalize:
        raise ValueError(f"{run} prepares audio in another way than the run: fine-tune it from the run with --lora.")
    return Letters(model, recognizer.float().eval())


def letters_facts(run: str) -> dict[str, Any]:
    """What the page needs to spell, and what the record tells of the recogniser."""
    tokenizer, record = load_processor(run).tokenizer, record_of(run, "what the recogniser was fine-tuned on")
    kept = [
        point["eval_wer"]
        for point in record["curves"]
        if "eval_wer" in point and point["step"] == record["kept_update"]
    ]
    train = record["data"]["train"]
    return {
        "name": Path(run).name,
        "tokens": tokenizer.convert_ids_to_tokens(range(len(tokenizer))),
        "blank": tokenizer.pad_token_id,
        "word_delimiter": tokenizer.word_delimiter_token,
        "wer": kept[-1] if kept else None,
        "rows": record["data"].get("validation", {}).get("rows"),
        "learnt_from": {"source": short_names(train["source"]), "hours": train["hours"]},
    }
