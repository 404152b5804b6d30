"""Lists the configurations that come with the package, prints one, or copies it to a file.

    hf-ssl-speech configs
    hf-ssl-speech configs hubert_tiny
    hf-ssl-speech configs hubert_tiny my_own.yaml

A command takes a configuration by its name (`hf-ssl-speech pretrain hubert_tiny`) or as a file (`... my_own.yaml`);
arguments on the command line override it.
"""

from __future__ import annotations

import os
from itertools import groupby

from hf_ssl_speech.commands.command_parser import CommandParser, path_type
from hf_ssl_speech.commands.named_configs import accelerate_configs, command_of, configs, summary


def main(argv: list[str]):
    """Lists, prints or copies."""
    parser = CommandParser(about=__doc__)
    parser.add_argument("name", nargs="?", help="Configuration to print or copy.")
    parser.add_argument("file", nargs="?", type=path_type, help="File to copy it to; never overwrites a file.")
    arguments = parser.parse_args(argv)
    if arguments.name is None:
        print(listing())
        return
    known = configs() | accelerate_configs()
    if arguments.name not in known:
        raise ValueError(f"There is no configuration {arguments.name}. Known are {', '.join(known)}.")
    content = known[arguments.name].read_text(encoding="utf-8")
    if arguments.file is None:
        print(content, end="")
        return
    if os.path.exists(arguments.file):
        raise ValueError(f"{arguments.file} exists already: give a new file's name.")
    with open(arguments.file, "x", encoding="utf-8") as file:  # the user's own settings are never overwritten
        file.write(content)
    print(f"{arguments.name} was copied to {arguments.file}")


def listing() -> str:
    """All configurations, grouped by the command that takes them, with a line about each."""
    width = max(map(len, configs() | accelerate_configs()))
    lines = []
    for command, names in groupby(sorted(configs(), key=lambda name: (command_of(name), name)), command_of):
        lines.append(f"hf-ssl-speech {command} NAME")
        lines += [f"  {name:<{width}}  {summary(configs()[name])}" for name in names]
    lines.append("--accelerate_config NAME")
    lines += [f"  {name:<{width}}  {summary(path)}" for name, path in accelerate_configs().items()]
    return "\n".join(lines)
