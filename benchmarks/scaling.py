"""How the time of a training step grows: with processes, with the seconds of a batch and with the size of the model.

    python benchmarks/scaling.py --output_file docs/measured/scaling.json

A step of HuBERT with 100 units is forward, backward, clipping and AdamW on rows of noise, in float32, on one thread for
each process; two processes exchange their gradients by gloo. Both CPU time (of all processes) and wall time are divided
by the seconds of audio in the step (of all processes). On a shared machine the wall time is that of a busy one.
"""

import json
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from measuring import arguments, machine, spread, write_results
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from training_step import make_batch, make_config

from hf_ssl_speech import SSLHubertForPreTraining
from hf_ssl_speech.allocation import keep_memory

# What grows: processes, size of the model, and rows and seconds of each process's batch.
CASES = {
    "processes": [(1, "tiny", 2, 6.0), (2, "tiny", 2, 6.0)],
    "seconds of a batch": [(1, "tiny", rows, seconds) for rows, seconds in ((1, 3.0), (1, 6.0), (2, 6.0), (4, 6.0))],
    "parameters": [(1, size, 1, 6.0) for size in ("tiny", "small", "base")],
}
QUICK = {"processes": [(1, "tiny", 1, 1.0), (2, "tiny", 1, 1.0)]}
WARM_UP = 2


def work(rank: int, processes: int, size: str, rows: int, seconds: float, rounds: int, folder: str):
    """CPU and wall seconds of each step of one process, written to a file of the folder."""
    torch.set_num_threads(1)
    keep_memory()
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=processes)
    torch.manual_seed(0)
    config = make_config("hubert-100", size)
    model = SSLHubertForPreTraining(config).train()
    model.set_update(0)
    batch = make_batch(config, rows, seconds)
    called = DistributedDataParallel(model, gradient_as_bucket_view=True) if processes > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    times = []
    for _ in range(WARM_UP + rounds):
        dist.barrier()
        cpu, wall = time.process_time(), time.perf_counter()
        called(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    found = {"times": times[WARM_UP:], "parameters": model.num_parameters()}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def measure(by: str, processes: int, size: str, rows: int, seconds: float, rounds: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        given = (processes, size, rows, seconds, rounds, folder)
        torch.multiprocessing.spawn(work, given, nprocs=processes)
        ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(processes)]
    audio, steps = processes * rows * seconds, list(zip(*(rank["times"] for rank in ranks)))
    cpu = [sum(cpu for cpu, _ in step) / audio for step in steps]
    wall = [max(wall for _, wall in step) / audio for step in steps]
    parameters = ranks[0]["parameters"]
    grown = {"processes": processes, "seconds of a batch": rows * seconds, "parameters": parameters}
    case = {
        "by": by,
        "value": grown[by],
        "work": f"{size}, {processes} x {rows} x {seconds:g} s",
        "parameters": parameters,
        "seconds": {"CPU": spread(cpu), "wall": spread(wall)},
    }
    print(json.dumps(case), flush=True)
    return case


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv, __doc__, 5)
    rounds = 1 if args.quick else args.rounds
    cases = []
    for by, chosen in (QUICK if args.quick else CASES).items():
        for case in chosen:
            cases.append(measure(by, *case, rounds))
            found = {"machine": machine(), "settings": {"rounds": rounds, "model": "hubert-100"}, "cases": cases}
            write_results(args.output_file, found)


if __name__ == "__main__":
    main()
