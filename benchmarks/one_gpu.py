"""What hours of pretraining buy, on one GPU that can be had for some minutes at a time: BASE and small, the same table.

python benchmarks/one_gpu.py --corpora SPEECH --minutes 18        (again and again, until it says that all is done)
python benchmarks/one_gpu.py --corpora SPEECH --dry_run           (prints the commands)
python benchmarks/keep_records.py one_gpu runs/one-gpu/small/payoff runs/one-gpu/base/payoff runs/one-gpu/*/hubert

SPEECH is the folder of the corpora, with `librispeech-mini` and `english-pool`. Every command goes on where it stopped:
after `--minutes` the one that runs is asked to stop, and saves a checkpoint. What is done is left as it is.
"""

import argparse
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

KEPT = {"small": (20, 100, 300), "base": (20, 100)}  # hours seen at which a model is kept; the last is the length
# Seconds of audio in an update: some hundred hours seen are then thousands of updates, as small data needs.
UPDATE_SECONDS = {"small": 120, "base": 160}
STOPS = 60  # seconds that a command has to save its checkpoint
MINUTE = 60


def commands(size: str, corpora: Path, folder: Path) -> list[str]:
    """The commands of a size, in their order."""
    runs, mini, pool = folder / size, corpora / "librispeech-mini", corpora / "english-pool"
    hours, seconds = KEPT[size], UPDATE_SECONDS[size]
    audio = f"--train_data '{mini}/train*.parquet' '{pool}/*.parquet' --validation_data '{mini}/validation*.parquet'"
    updates = round(3600 * hours[-1] / seconds)
    kept = " ".join(f"{runs}/hubert/hours-{each}" for each in hours[:-1])
    return [
        f"units {audio} --cache_audio true --num_units 100 --center true --output_dir {folder}/units",
        f"pretrain --objective hubert --preset {size} --config '{{\"unmasked_loss_weight\": 1}}' {audio} "
        f"--units {folder}/units --cache_audio true --output_dir {runs}/hubert --bf16 auto --batch_seconds {seconds} "
        f"--min_seconds 0.5 --max_steps {updates} --learning_rate 5e-4 --warmup_steps 0.1 --lr_scheduler_type linear "
        f"--max_grad_norm 10 --logging_steps 20 --eval_strategy steps --eval_steps 500 --save_steps 250 --keep_hours "
        f"{' '.join(map(str, hours[:-1]))} --dataloader_num_workers 8 --disable_tqdm true",
        f"payoff label_efficiency_librispeech --starts scratch {kept} {runs}/hubert --train_data "
        f"'{mini}/train*.parquet' --validation_data '{mini}/validation*.parquet' --test_data '{mini}/test*.parquet' "
        f"--minutes 10 60 --seeds 0 --use_cpu false --bf16 auto --batch_seconds 200 --output_dir "
        f"{runs}/payoff --disable_tqdm true",
    ]


def run(command: str, seconds: float) -> int | None:
    """A command of the program for at most so long; its exit code, or None if it was asked to stop."""
    process = subprocess.Popen([sys.executable, "-m", "hf_ssl_speech.commands", *shlex.split(command)])
    try:
        return process.wait(max(seconds, 1))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOPS)
    except subprocess.TimeoutExpired:
        process.kill()  # a checkpoint that is not whole is passed over by the next start
        process.wait()
    return None


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/one-gpu"))
    parser.add_argument("--sizes", nargs="+", default=list(KEPT), choices=list(KEPT))
    parser.add_argument("--minutes", type=float, default=18, help="for how long this start works (default: 18)")
    parser.add_argument("--dry_run", action="store_true", help="print the commands, and end")
    args = parser.parse_args(argv)
    end = time.monotonic() + MINUTE * args.minutes - STOPS
    for size in args.sizes:
        for command in commands(size, args.corpora, args.output_dir):
            print(f"$ hf-ssl-speech {command}", flush=True)
            if args.dry_run:
                continue
            code = run(command, end - time.monotonic())
            if code is None:
                raise SystemExit("Not done yet: start this again.")
            if code:
                raise SystemExit(f"The last command ended with exit code {code}.")
    if not args.dry_run:
        print("All is done: keep_records.py takes it over.")


if __name__ == "__main__":
    main()
