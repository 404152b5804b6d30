"""Several processes: a command starts itself again through Accelerate's launcher."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from hf_ssl_speech.commands.named_configs import accelerate_config

HELP = {"-h", "--help", "--help-all"}
LAUNCH_OPTIONS = {
    "num_processes": ("N", "Processes that work together, on all machines: one for each GPU (default: 1)."),
    "accelerate_config": (
        "NAME",
        "Settings for Accelerate's launcher, instead: a name that `hf-ssl-speech configs` lists, or a YAML file.",
    ),
    "machine_rank": ("N", "Several machines: the number of this one, counted from 0."),
    "main_process_ip": ("ADDRESS", "Several machines: the address of the one with number 0."),
    "main_process_port": ("N", "A free port of that machine (default: 29500)."),
}


def take_launch_options(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Separates the launcher's options from the arguments of a command.

    Returns:
        The options by name, empty if this process does all the work, and all other arguments.
    Raises:
        ValueError: If an option has no value, or the number of processes is none.
    """
    options, rest = {}, []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        key = name.removeprefix("--").replace("-", "_")
        if not name.startswith("--") or key not in LAUNCH_OPTIONS:
            rest.append(word)
            continue
        options[key] = value if equals else next(words, "")
        if not options[key] or options[key].startswith("--"):
            raise ValueError(f"{name} needs a value.")
    count = options.get("num_processes", "1")
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"--num_processes is {count}: give a whole number, 1 or more.")
    if HELP & set(rest) or (set(options) <= {"num_processes"} and int(count) == 1):
        return {}, rest
    return options, rest


def launch(name: str, argv: Sequence[str], *, accelerate_config: str | None = None, **options: str):
    """Starts the processes and waits for them; each runs the command with the same arguments.

    Args:
        name: The command.
        argv: Its arguments.
        accelerate_config: Name or path of a YAML for the launcher.
        options: More of `LAUNCH_OPTIONS`.
    Raises:
        SystemExit: If one of them fails; that process has printed the error.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the failing process prints the error
    words = [word for option, value in options.items() for word in (f"--{option}", value)]
    words = [*launcher_settings(accelerate_config, int(options.get("num_processes", 1))), *words]
    arguments = launch_command_parser().parse_args(
        [*words, "--quiet", "--module", "hf_ssl_speech.commands", name, *argv]
    )
    try:
        launch_command(arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        raise SystemExit(failure.exitcode if failure.exitcode > 0 else 1) from error


def launcher_settings(config: str | None, num_processes: int) -> list[str]:
    """Accelerate's arguments besides the number of processes."""
    if config is not None:
        return ["--config_file", str(accelerate_config(config))]
    import torch

    # `--multi_gpu` means several processes, on CPUs too.
    settings = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    if not torch.accelerator.is_available() and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        settings += ["--num_cpu_threads_per_process", str(max(1, cores // num_processes))]
    return settings
