"""`hf-ssl-speech`: one command, from raw audio to a recogniser on the Hub."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from hf_ssl_speech.allocation import keep_few_kernels, keep_memory
from hf_ssl_speech.commands.ending import tidy_errors
from hf_ssl_speech.commands.launching import HELP, launch, take_launch_options

PROGRAM = "hf-ssl-speech"
COMMANDS = {
    "demo": "Go the whole way on made speech, from audio to a recogniser beside one from scratch.",
    "pretrain": "Pretrain an encoder on raw audio: wav2vec 2.0, or HuBERT on given units.",
    "units": "Make the units that HuBERT learns to predict, and measure them.",
    "features": "Write a layer of an encoder, or units, as a dataset.",
    "hubert": "Train HuBERT in several iterations, units included, from raw audio.",
    "distil": "Train a small student that learns several layers of a teacher.",
    "finetune": "Fine-tune an encoder on transcribed speech with CTC.",
    "label-efficiency": "Fine-tune on less and more labels, and draw the errors against minutes of labels.",
    "payoff": "Draw what hours of pretraining buy: fine-tune, probe and cluster encoders kept along a run.",
    "explore": "Make a page that shows what a HuBERT run has learnt, its model running in the browser.",
    "probe": "Tell what frozen encoders know of speakers, languages, keywords or phones.",
    "transcribe": "Write what is said in audio files, with a fine-tuned recogniser.",
    "evaluate": "Score recognisers side by side on the same audio.",
    "ngram": "Make an n-gram language model from text, for beam search.",
    "tune-decoder": "Find the weights of a beam search on validation data.",
    "align": "Find when each word and character of transcribed speech was said.",
    "export": "Write a model in a form that needs nothing of this package.",
    "card": "Make the model card of a folder from its records.",
    "push": "Put a model or a unit set on the Hub, with its card.",
    "replay": "Compute the update again at which a run went wrong, and find where.",
    "configs": "List the configurations that come with the package, print or copy one.",
    "make-speech": "Make a speech corpus on the spot, for a trial without any download.",
}
SEVERAL_PROCESSES = {"pretrain", "units", "features", "hubert", "distil", "finetune", "label-efficiency"}
# Of features, each batch has arrays of another length, which would fill the memory that stays.
KEEPING_MEMORY = (SEVERAL_PROCESSES | {"demo", "payoff"}) - {"features"}
# What pads, so that few batches have the same shape; a pretraining may have all of one length.
PADDING = {
    "finetune", "label-efficiency", "payoff", "transcribe", "evaluate", "align", "tune-decoder", "probe", "features",
    "units",
}  # fmt: skip


def main(argv: Sequence[str] | None = None):
    """The program: runs the subcommand that the first word names."""
    sys.argv[0] = PROGRAM  # what records tell, whichever file the process was started with
    name, *rest = sys.argv[1:] if argv is None else argv or ["--help"]
    if name in ("-h", "--help", "help"):
        print(overview())
    elif name == "--version":
        print(f"{PROGRAM} {version('hf_ssl_speech')}")
    else:
        start(name, rest)


def start(name: str, argv: Sequence[str] | None = None):
    """Runs a subcommand as a program: a mistake ends it with a message, not with a traceback.

    Args:
        name: One of `COMMANDS`.
        argv: Its arguments; those of this process if not given.
    """
    # Threads that wait by spinning take the cores from other programs: with one busy neighbour a step takes several
    # times as long. Must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    argv = list(sys.argv[1:] if argv is None else argv)
    with tidy_errors():
        if name in SEVERAL_PROCESSES:
            options, argv = take_launch_options(argv)
            if options:
                launch(name, argv, **options)
                return
        if name in KEEPING_MEMORY:
            keep_memory()
        if name in PADDING:
            keep_few_kernels()
        with without_peft() if HELP & set(argv) else contextlib.nullcontext():
            run(name, argv)


@contextlib.contextmanager
def without_peft() -> Iterator[None]:
    """Lets PEFT seem not installed: with Trainer's settings transformers imports it, and with it the code of models.

    That takes as long as all other imports of a command together, and help needs nothing of it.
    """
    if {"transformers", "peft"} & sys.modules.keys():  # the time has been spent already
        yield
        return
    sys.modules["peft"] = None  # type: ignore[assignment]  # what Python takes for "can't be imported"
    try:
        yield
    finally:
        del sys.modules["peft"]


def run(name: str, argv: Sequence[str]):
    """Runs a subcommand inside this process; errors are raised as they come.

    Raises:
        ValueError: If there is no such subcommand; the closest one is named.
    """
    if name not in COMMANDS:
        closest = difflib.get_close_matches(name, COMMANDS, n=1)
        raise ValueError(
            f"There is no command {name}."
            + (f" Did you mean {closest[0]}?" if closest else "")
            + f" `{PROGRAM} --help` lists the commands."
        )
    importlib.import_module(f"hf_ssl_speech.commands.{name.replace('-', '_')}").main(list(argv))


def overview() -> str:
    """What `hf-ssl-speech --help` shows."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [arguments]",
            "",
            "Self-supervised pretraining of speech models (wav2vec 2.0, HuBERT), and what comes after it.",
            "",
            *lines,
            "",
            f"`{PROGRAM} COMMAND --help` shows the arguments of a command.",
        ]
    )
