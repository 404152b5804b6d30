"""Weights that are split among processes, as the launcher's settings say: losses and gradients of the whole model."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from conftest import tiny_model
from torch.distributed.fsdp import FSDPModule, fully_shard

from hf_ssl_speech import SSLHubertForPreTraining, SSLWav2Vec2ForPreTraining
from hf_ssl_speech.data.collators import pretraining_collator
from hf_ssl_speech.models.transformer import TransformerLayer
from hf_ssl_speech.training.blank import take_cost, with_cost

SETTINGS = Path(__file__).parents[1] / "examples" / "accelerate" / "eight_gpus_sharded.yaml"
MODELS = (SSLHubertForPreTraining, SSLWav2Vec2ForPreTraining)


def plugin() -> FullyShardedDataParallelPlugin:
    """What Accelerate makes of the settings."""
    given = load_config_from_file(str(SETTINGS)).fsdp_config
    return FullyShardedDataParallelPlugin(
        fsdp_version=given["fsdp_version"],
        auto_wrap_policy=given["fsdp_auto_wrap_policy"].lower(),
        transformer_cls_names_to_wrap=given["fsdp_transformer_layer_cls_to_wrap"].split(","),
        reshard_after_forward=given["fsdp_reshard_after_forward"],
    )


def batch_of(model, rank: int) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(rank)
    rows = []
    for row, samples in enumerate((8_000, 6_000)):
        noise = generator.integers(-3000, 3000, samples).astype(np.int16)
        units = generator.integers(0, 10, model.num_frames(samples))
        facts = {"name": "", "sample_id": 2 * rank + row, "num_samples": samples}
        rows.append(facts | {"samples": noise, "units": units})
    batch = pretraining_collator(model.config, normalize=False)(rows)
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    return {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}


def model_of(model_class):
    model = tiny_model(model_class, layerdrop=0.0, hidden_dropout=0.0).double().train()
    model.set_update(0)
    return model


def compare_with_the_whole(rank: int, folder: str):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.set_num_threads(1)
    found = {}
    for model_class in MODELS:
        whole, sharded = model_of(model_class), model_of(model_class)
        losses = [whole(**batch_of(whole, each)).loss for each in range(2)]
        (sum(losses) / 2).backward()  # gradients are averaged over processes
        chosen = plugin()
        chosen.set_auto_wrap_policy(sharded)
        is_unit = fsdp2_prepare_auto_wrap_policy(chosen, sharded)
        for module in [each for each in sharded.modules() if is_unit(each)]:
            fully_shard(module, reshard_after_forward=chosen.reshard_after_forward)
        fully_shard(sharded)
        layers = [module for module in sharded.modules() if isinstance(module, TransformerLayer)]
        assert layers and all(isinstance(layer, FSDPModule) for layer in layers)
        loss = sharded(**batch_of(whole, rank)).loss
        loss.backward()
        gradients = {name: weight.grad.full_tensor() for name, weight in sharded.named_parameters()}
        bias = sharded.base_model.feature_projection.projection.bias
        changed = with_cost(bias.full_tensor(), 3, 0.75)
        take_cost(bias, 3, 0.75)
        found[model_class.__name__] = {
            "cost": (bias.full_tensor() - changed).abs().max().item(),
            "loss": abs(loss.item() - losses[rank].item()),
            "gradients": max(
                (gradients[name] - weight.grad).abs().max().item() for name, weight in whole.named_parameters()
            ),
            "held": sum(weight.to_local().numel() for weight in sharded.parameters()),
            "all": sum(weight.numel() for weight in whole.parameters()),
        }
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_a_model_split_between_two_processes_has_the_loss_and_gradients_of_the_whole(tmp_path):
    torch.multiprocessing.start_processes(compare_with_the_whole, (str(tmp_path),), nprocs=2, start_method="forkserver")
    for rank in range(2):
        for figures in json.loads((tmp_path / f"{rank}.json").read_text()).values():
            assert figures["cost"] == 0
            assert figures["loss"] < 1e-10 and figures["gradients"] < 1e-10
            assert figures["held"] < 0.7 * figures["all"]
