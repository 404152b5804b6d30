"""A whole training step beside the stock ones: wav2vec 2.0 of transformers, HuBERT of torchaudio.

    python benchmarks/training_step.py --output_file docs/measured/training_step.json
    python benchmarks/training_step.py --sizes small --precisions bfloat16 --objectives hubert-100
    python benchmarks/training_step.py --sizes tiny --against 80cc319    # today's code beside a revision's

Both sides have the same weights, audio, masks, negatives and labels, none of which is drawn on the clock, and no layer
drop. Before the clock starts, loss and gradients are compared, without dropout. A step is forward, backward, clipping
and a fused AdamW, on one thread; the time is that of the CPU. The operations of a step are counted by formula, so that
what is saved by computing less counts as speed; they give the share of the rate that a large matrix product reaches.
"""

import argparse
import gc
import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from unittest import mock

import torch
import torch.nn.functional as F
import torchaudio
from against import times_against, without_dropout
from measuring import in_turn, machine, median_ratio, product_rate, spread, write_results
from torch import Tensor, nn

from hf_ssl_speech import SSLHubertConfig, SSLHubertForPreTraining, SSLWav2Vec2Config, SSLWav2Vec2ForPreTraining
from hf_ssl_speech.allocation import keep_memory
from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.collators import pretraining_collator
from hf_ssl_speech.hub.exchange import from_torchaudio, to_transformers
from hf_ssl_speech.models.quantizer import gumbel_noise

OBJECTIVES = ("wav2vec2", "hubert-100", "hubert-500")
# Rows and seconds of a batch. The small one is the preset with the papers' conv encoder of 512 channels.
SIZES = {
    "tiny": ({}, 2, 6),
    "small": (dict(conv_dim=(512,) * 7), 2, 10),
    "base": ({}, 1, 5),
}
# Largest relative differences of the loss and of all gradients. In bf16 rounding makes some frames choose another
# codebook entry, whose gradient is another one: there the loss alone decides.
AGREES = {"float32": (1e-4, 2e-3), "bfloat16": (2e-2, math.inf)}
Loss = Callable[[], Tensor]


def make_config(objective: str, size: str, **fields) -> SSLWav2Vec2Config | SSLHubertConfig:
    kind = SSLWav2Vec2Config if objective == "wav2vec2" else SSLHubertConfig
    units = {} if objective == "wav2vec2" else {"num_units": [int(objective.removeprefix("hubert-"))]}
    # What stock wav2vec 2.0 does not know: a penalty, and another gradient for the conv encoder.
    same = dict(feature_penalty_weight=0.0, feature_gradient_scale=1.0) if objective == "wav2vec2" else {}
    return kind.preset(size, **SIZES[size][0], layerdrop=0.0, **units, **same, **fields)


def make_batch(config: SSLWav2Vec2Config | SSLHubertConfig, rows: int, seconds: float) -> dict[str, Tensor]:
    """What the collator makes of noise."""
    samples = round(seconds * SAMPLE_RATE)
    frames = SSLHubertForPreTraining.num_frames(mock.Mock(config=config), samples)
    generator = torch.Generator().manual_seed(0)
    units = torch.randint(getattr(config, "num_units", [2])[0], (rows, frames), generator=generator).numpy()
    audio = (torch.randn(rows, samples, generator=generator) * 3000).to(torch.int16).numpy()
    batch = pretraining_collator(config, normalize=True)(
        [
            {"sample_id": row, "name": str(row), "num_samples": samples, "samples": audio[row], "units": units[row]}
            for row in range(rows)
        ]
    )
    return {name: value for name, value in batch.items() if isinstance(value, Tensor)}


def wav2vec2_pair(config: SSLWav2Vec2Config, batch: dict[str, Tensor]) -> dict[str, tuple[nn.Module, Loss]]:
    torch.manual_seed(0)
    ours = SSLWav2Vec2ForPreTraining(config).train()
    ours.set_update(0)
    stock = to_transformers(ours).train()
    stock.set_gumbel_temperature(ours.quantizer.temperature.item())
    mask, positions = batch["mask_time_indices"], batch["masked_positions"]
    # Stock counts frames over the whole batch, masked or not; ours over each row's masked frames.
    first = torch.arange(len(mask))[:, None] * mask.shape[1]
    negatives = torch.zeros(*mask.shape, config.num_negatives, dtype=torch.long)
    valid = positions >= 0
    rows = valid.nonzero()[:, 0]
    picked = positions.gather(1, batch["sampled_negative_indices"].flatten(1)).view_as(
        batch["sampled_negative_indices"]
    )
    negatives[rows, positions[valid]] = (first[..., None] + picked)[valid]
    theirs = dict(mask_time_indices=mask, sampled_negative_indices=negatives)
    return {
        "ours": (ours, lambda: ours(**batch).loss),
        "transformers": (stock, lambda: stock(batch["input_values"], **theirs).loss / mask.sum()),
    }


def same_noise(config: SSLWav2Vec2Config, batch: dict[str, Tensor]):
    """Gives stock the Gumbel noise of ours, which is a function of the row."""
    positions, groups = batch["masked_positions"], (config.num_codevector_groups, config.num_codevectors_per_group)
    noise = torch.zeros(*batch["mask_time_indices"].shape, *groups)
    valid = positions >= 0
    drawn = gumbel_noise(torch.empty(*positions.shape, *groups), batch["gumbel_seeds"])
    noise[valid.nonzero()[:, 0], positions[valid]] = drawn[valid]

    def gumbel_softmax(logits: Tensor, tau: float, hard: bool) -> Tensor:
        soft = ((logits + noise.view_as(logits)) / tau).softmax(-1)
        return F.one_hot(soft.argmax(-1), soft.shape[-1]) - soft.detach() + soft

    return mock.patch.object(nn.functional, "gumbel_softmax", gumbel_softmax)


class GivenMask(nn.Module):
    """Stands where torchaudio draws its own masks."""

    def __init__(self, mask_embedding: nn.Parameter, mask: Tensor):
        super().__init__()
        self.mask_embedding, self.mask = mask_embedding, mask

    def forward(self, frames: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return torch.where(self.mask[..., None], self.mask_embedding.to(frames.dtype), frames), self.mask


def torchaudio_hubert(config: SSLHubertConfig) -> nn.Module:
    """Their model in the sizes of ours; like ours it computes no logits of frames that it does not hide."""
    masking = dict(mask_prob=0.8, mask_selection="static", mask_other=0.0, mask_length=10, no_mask_overlap=False)
    masking |= dict(mask_min_space=1, mask_channel_prob=0.0, mask_channel_selection="static", mask_channel_other=0.0)
    masking |= dict(mask_channel_length=10, no_mask_channel_overlap=False, mask_channel_min_space=1)
    return torchaudio.models.hubert_pretrain_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=list(zip(config.conv_dim, config.conv_kernel, config.conv_stride)),
        extractor_conv_bias=config.conv_bias,
        encoder_embed_dim=config.hidden_size,
        encoder_projection_dropout=config.feat_proj_dropout,
        encoder_pos_conv_kernel=config.num_conv_pos_embeddings,
        encoder_pos_conv_groups=config.num_conv_pos_embedding_groups,
        encoder_num_layers=config.num_hidden_layers,
        encoder_num_heads=config.num_attention_heads,
        encoder_attention_dropout=config.attention_dropout,
        encoder_ff_interm_features=config.intermediate_size,
        encoder_ff_interm_dropout=config.activation_dropout,
        encoder_dropout=config.hidden_dropout,
        encoder_layer_norm_first=config.do_stable_layer_norm,
        encoder_layer_drop=0.0,
        **masking,
        skip_masked=False,
        skip_nomask=True,
        num_classes=config.num_units[0],
        final_dim=config.unit_embedding_dim,
        feature_grad_mult=config.feature_gradient_scale if config.feature_gradient_scale < 1 else None,
    )


def hubert_pair(config: SSLHubertConfig, batch: dict[str, Tensor]) -> dict[str, tuple[nn.Module, Loss]]:
    torch.manual_seed(0)
    theirs = torchaudio_hubert(config).train()
    ours = from_torchaudio(theirs).train()
    ours.config.feature_penalty_weight = config.feature_penalty_weight
    ours.set_update(0)
    theirs.mask_generator = GivenMask(theirs.mask_generator.mask_embedding, batch["mask_time_indices"])

    def their_loss() -> Tensor:
        logits, _, penalty = theirs(batch["input_values"], batch["labels"])
        loss = F.cross_entropy(logits.float(), torch.zeros(len(logits), dtype=torch.long), reduction="sum")
        return loss / len(logits) + config.feature_penalty_weight * penalty

    return {"ours": (ours, lambda: ours(**batch).loss), "torchaudio": (theirs, their_loss)}


def make_pair(config, batch: dict[str, Tensor]) -> dict[str, tuple[nn.Module, Loss]]:
    return (wav2vec2_pair if isinstance(config, SSLWav2Vec2Config) else hubert_pair)(config, batch)


def autocast(precision: str):
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def differences(config, batch: dict[str, Tensor], precision: str) -> tuple[float, float]:
    """Relative differences of loss and gradients (all of them as one vector) between both sides."""
    pair = make_pair(config, batch)
    losses, gradients = [], []
    for name, (model, loss) in pair.items():
        with autocast(precision), same_noise(config, batch) if name == "transformers" else nullcontext():
            value = loss()
        value.backward()
        losses.append(value.item())
        if name == "torchaudio":
            for weight in model.parameters():
                weight.data = weight.grad
            gradients.append(dict(from_torchaudio(model).state_dict()))
        else:
            gradients.append({key: weight.grad for key, weight in model.named_parameters()})
    ours, theirs = gradients
    difference = math.sqrt(sum((ours[key] - theirs[key]).square().sum().item() for key in ours))
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in theirs.values()))
    return abs(losses[0] / losses[1] - 1), difference / norm


def make_step(model: nn.Module, loss: Loss, precision: str) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step():
        with autocast(precision):
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def saved_megabytes(model: nn.Module, loss: Loss, precision: str) -> float:
    """What the forward pass keeps for the backward pass, without the weights."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(precision):
        loss()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    return sum(size for pointer, size in kept.items() if pointer not in weights) / 1e6


def operations(config, rows: int, samples: int) -> float:
    """Floating-point operations of forward and backward by the formula of the layers; heads are not counted."""
    frames, below, total = samples, 1, 0.0
    for index, (channels, layer) in enumerate(zip(config.conv_dim, config.conv_layers)):
        frames = (frames - layer.kernel) // layer.stride + 1
        # Nobody needs the gradient of the waveform.
        total += (2 if index == 0 else 3) * 2 * frames * below * channels * layer.kernel
        below = channels
    hidden, kernel = config.hidden_size, config.num_conv_pos_embeddings
    layer = 2 * frames * (4 * hidden**2 + 2 * hidden * config.intermediate_size) + 4 * frames**2 * hidden
    positions = 2 * frames * hidden * hidden // config.num_conv_pos_embedding_groups * kernel
    return rows * (total + 3 * (2 * frames * below * hidden + positions + config.num_hidden_layers * layer))


def measure(objective: str, size: str, precision: str, rounds: int, audio: tuple[int, float] | None, rate: float):
    rows, seconds = audio or SIZES[size][1:]
    config = make_config(objective, size)
    batch = make_batch(config, rows, seconds)
    loss_difference, gradient_difference = differences(
        make_config(objective, size, **without_dropout(type(config))), batch, precision
    )
    if loss_difference > AGREES[precision][0] or gradient_difference > AGREES[precision][1]:
        raise SystemExit(f"The losses differ by {loss_difference:.1e}, the gradients by {gradient_difference:.1e}.")

    pair = make_pair(config, batch)
    times = in_turn({name: make_step(*sides, precision) for name, sides in pair.items()}, rounds)
    peer = next(name for name in pair if name != "ours")
    work = operations(config, rows, round(seconds * SAMPLE_RATE))
    return {
        "objective": objective,
        "size": size,
        "precision": precision,
        "audio": f"{rows} x {seconds:g} s",
        "beside": peer,
        "rounds": rounds,
        "seconds": {name: spread(measured) for name, measured in times.items()},
        "times_as_fast": median_ratio(times["ours"], times[peer]),
        "audio_seconds_per_second": rows * seconds / spread(times["ours"])["median"],
        "gigaflop": work / 1e9,
        "share_of_product": {name: work / spread(measured)["median"] / rate for name, measured in times.items()},
        "saved_megabytes": {name: saved_megabytes(*sides, precision) for name, sides in pair.items()},
        "loss_difference": loss_difference,
        "gradient_difference": gradient_difference,
    }


def measure_against(
    revision: str, objective: str, size: str, precision: str, rounds: int, audio: tuple[int, float] | None
) -> dict:
    """Our step beside that of an older revision of this package."""
    rows, seconds = audio or SIZES[size][1:]
    config = make_config(objective, size)
    batch = make_batch(config, rows, seconds)
    torch.manual_seed(0)
    kind = SSLWav2Vec2ForPreTraining if objective == "wav2vec2" else SSLHubertForPreTraining
    times, difference = times_against(revision, kind(config), batch, precision, rounds)
    case = {"objective": objective, "size": size, "precision": precision, "audio": f"{rows} x {seconds:g} s"}
    return case | {
        "beside": revision,
        "rounds": rounds,
        "seconds": {name: spread(measured) for name, measured in times.items()},
        "times_as_fast": median_ratio(times["ours"], times[revision]),
        "loss_difference": difference,
    }


def describe(case: dict) -> str:
    if "share_of_product" not in case:
        return json.dumps(case)
    peer, times, saved, share = (case[name] for name in ("beside", "seconds", "saved_megabytes", "share_of_product"))
    columns = [
        f"{name} {times[name]['median']:.3f} s ({times[name]['minimum']:.3f} to {times[name]['maximum']:.3f}), "
        f"{share[name]:.0%}, {saved[name]:.0f} MB"
        for name in ("ours", peer)
    ]
    return (
        f"{case['objective']:>10} {case['size']:>5} {case['precision']:>8} {case['audio']:>8}: {'; '.join(columns)}; "
        f"{case['times_as_fast']:.2f} times as fast, loss {case['loss_difference']:.0e}, "
        f"gradients {case['gradient_difference']:.0e}"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES, choices=OBJECTIVES)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--precisions", nargs="+", default=list(AGREES), choices=list(AGREES))
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count")
    parser.add_argument("--audio", nargs=2, type=float, metavar=("ROWS", "SECONDS"), help="of a batch, for all sizes")
    parser.add_argument("--against", metavar="REVISION", help="measure beside an older revision instead of the peers")
    parser.add_argument("--quick", action="store_true", help="the tiny size on a second of audio, to see that it runs")
    parser.add_argument("--output_file", help="JSON with all figures")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.sizes, arguments.rounds, arguments.audio = ["tiny"], 1, (1, 1)
    torch.set_num_threads(1)
    keep_memory()  # as `hf-ssl-speech` does, for both sides

    facts = machine("transformers", "torchaudio")
    rates = {precision: product_rate(getattr(torch, precision)) for precision in arguments.precisions}
    print(", ".join(f"{name} {value}" for name, value in facts.items() if value != ""))
    print("a matrix product: " + ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in rates.items()))
    audio = arguments.audio and (int(arguments.audio[0]), arguments.audio[1])
    cases = []
    for size in arguments.sizes:
        for precision in arguments.precisions:
            for objective in arguments.objectives:
                gc.collect()  # models hold cycles, and all sizes one after the other would fill the memory
                given = (objective, size, precision, arguments.rounds, audio)
                measured = (
                    measure_against(arguments.against, *given)
                    if arguments.against
                    else measure(*given, rates[precision])
                )
                cases.append(measured)
                print(describe(cases[-1]), flush=True)
                write_results(arguments.output_file, {"machine": facts, "product_rate": rates, "cases": cases})


if __name__ == "__main__":
    main()
