"""Memory of a process over many updates of varied lengths, with and without what `keep_memory` does.

    python benchmarks/memory.py --output_file docs/measured/memory.json

A process for each variant trains the tiny HuBERT on batches of noise, each of other lengths, and tells its resident
memory after every tenth of the updates. With `keep_memory` freed memory stays with the process; with `keep_few_kernels`
too it must not grow after the largest batches have come by.
"""

import json
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import torch
from measuring import arguments, machine, write_results
from training_step import make_config

from hf_ssl_speech import SSLHubertForPreTraining
from hf_ssl_speech.allocation import FEW_KERNELS, keep_memory
from hf_ssl_speech.audio import SAMPLE_RATE
from hf_ssl_speech.data.collators import pretraining_collator

UPDATES, ROWS, SECONDS = 500, 2, (1.0, 4.0)
# What is done with freed memory, and with the kernels of lengths that have gone by.
VARIANTS = {"given back": (False, False), "kept": (True, False), "kept, with few kernels": (True, True)}
STEPS = 10
# After its first fifth a training may still grow by so much: the heap's gaps fit fewer and fewer lengths anew.
MAY_GROW = 1.25


def train(updates: int, kept: bool) -> dict:
    """Megabytes after each tenth of the updates, and the CPU time of an update."""
    torch.set_num_threads(1)
    if kept and not keep_memory():
        raise SystemExit("keep_memory does nothing on this system, or GLIBC_TUNABLES is set.")
    generator, config = np.random.default_rng(0), make_config("hubert-100", "tiny")
    torch.manual_seed(0)
    model = SSLHubertForPreTraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    collate, megabytes, start = pretraining_collator(config, normalize=True), [], time.process_time()
    for update in range(updates):
        model.set_update(update)
        rows = []
        for row in range(ROWS):
            samples = int(generator.uniform(*SECONDS) * SAMPLE_RATE)
            units = generator.integers(0, 100, model.num_frames(samples))
            noise = (generator.normal(size=samples) * 3000).astype(np.int16)
            rows.append({"sample_id": row, "name": str(row), "num_samples": samples, "samples": noise, "units": units})
        batch = {name: value for name, value in collate(rows).items() if isinstance(value, torch.Tensor)}
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if (update + 1) % max(1, updates // STEPS) == 0:
            megabytes.append(psutil.Process().memory_info().rss / 1e6)
    return {"megabytes": megabytes, "seconds_an_update": (time.process_time() - start) / updates}


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        argv,
        __doc__,
        1,
        updates=dict(type=int, default=UPDATES, help=f"updates of each training (default: {UPDATES})"),
        variant=dict(choices=list(VARIANTS), help="train one of the variants in this process, and print JSON"),
    )
    updates = STEPS if args.quick else args.updates
    if args.variant:
        print(json.dumps(train(updates, VARIANTS[args.variant][0])))
        return
    found = {}
    for name, (_, few) in VARIANTS.items():
        environment = os.environ | (FEW_KERNELS if few else {})  # torch reads it when it is imported
        command = [sys.executable, __file__, "--variant", name, "--updates", str(updates)]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
        found[name] = json.loads(result.stdout)
        print(name, json.dumps(found[name]), flush=True)
    megabytes = found["kept, with few kernels"]["megabytes"]
    if not args.quick and max(megabytes) > MAY_GROW * megabytes[STEPS // 5 - 1]:
        raise SystemExit("The memory grows.")
    settings = {"model": "hubert-100 tiny", "updates": updates, "rows": ROWS, "seconds_of_a_row": SECONDS}
    write_results(args.output_file, {"machine": machine(), "settings": settings, "variants": found})


if __name__ == "__main__":
    main()
