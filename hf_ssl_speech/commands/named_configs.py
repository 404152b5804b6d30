"""The configurations that come with the package, taken by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from hf_ssl_speech.file_names import expanded

# In the wheel they are inside the package, in a checkout beside it.
_PACKAGE = Path(__file__).parents[1]
_EXAMPLES = _PACKAGE.parent / "examples"


def configs() -> dict[str, Path]:
    """The settings of runs, by name."""
    return _yaml_files(_PACKAGE / "configs", _EXAMPLES / "configs")


def accelerate_configs() -> dict[str, Path]:
    """The settings of Accelerate's launcher, by name."""
    return _yaml_files(_PACKAGE / "configs" / "accelerate", _EXAMPLES / "accelerate")


def config(name: str) -> Path:
    """The file of a configuration, given by name or path.

    Raises:
        ValueError: If there is none; the closest name is told.
    """
    return _find(name, configs(), "configuration")


def accelerate_config(name: str) -> Path:
    """The launcher's settings, given by name or path.

    Raises:
        ValueError: If there are none; the closest name is told.
    """
    return _find(name, accelerate_configs(), "configuration for Accelerate")


def command_of(name: str) -> str:
    """The command that a configuration is for."""
    commands = {
        "ctc": "finetune",
        "distil": "distil",
        "hubert_iterations": "hubert",
        "label_efficiency": "label-efficiency",
    }
    return next((command for beginning, command in commands.items() if name.startswith(beginning)), "pretrain")


def summary(path: Path) -> str:
    """The first sentence of the comment that a configuration begins with."""
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.strip("# "))
    return " ".join(comment).partition(". ")[0].rstrip(".") + "."


def _yaml_files(*folders: Path) -> dict[str, Path]:
    folder = next(folder for folder in folders if folder.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _find(name: str, known: dict[str, Path], what: str) -> Path:
    if Path(name).suffix in (".yaml", ".yml"):
        name = expanded(name)
        if not Path(name).exists():
            raise ValueError(f"There is no {what} {name}.")
        return Path(name)
    if name not in known:
        closest = difflib.get_close_matches(name, known, n=1)
        raise ValueError(
            f"There is no {what} {name}."
            + (f" Did you mean {closest[0]}?" if closest else "")
            + " `hf-ssl-speech configs` lists those that come with the package; a file's name ends with .yaml."
        )
    return known[name]
