"""Imports run downwards only: a file imports its own floor and those below, never above."""

import ast
import sys
from pathlib import Path

import pytest

import hf_ssl_speech

PACKAGE = Path(hf_ssl_speech.__file__).parent
FLOORS = {
    "audio": 0,
    "containers": 0,
    "decoders": 0,
    "allocation": 0,
    "file_names": 0,
    "markdown": 0,
    "files": 0,
    "records": 0,
    "uploading": 0,
    "models": 1,
    "data": 2,
    "demo": 3,
    "units": 3,
    "recognition": 4,
    "training": 5,
    "evaluation": 6,
    "recipes": 7,
    "hub": 8,
    "explorer": 9,
    "public": 10,
    "commands": 10,
}
TOP_FLOOR = max(FLOORS.values()) + 1  # the package's own `__init__`, which no file may import
MODEL_LIBRARIES = {"torch", "transformers", "huggingface_hub", "safetensors"} | sys.stdlib_module_names
FILES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(source: str) -> set[str]:
    """Every module that a source imports, at its top or inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}: the floors are told by full names"
            modules.add(node.module)
            modules |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "hf_ssl_speech"}
    return modules


def floor(module: str) -> int | None:
    """Floor of one of the package's modules; None for other packages'."""
    package, _, rest = module.partition(".")
    if package != "hf_ssl_speech":
        return None
    return FLOORS.get(rest.split(".")[0], TOP_FLOOR)


def imports_from_above(source: str, own_floor: int) -> list[str]:
    floors = {module: floor(module) for module in imported_modules(source) if module != "hf_ssl_speech"}
    return [module for module, its_floor in floors.items() if its_floor is not None and its_floor > own_floor]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_file_imports_its_own_floor_and_those_below(file):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in FLOORS or room == "__init__", f"{room} has no floor: give it one in FLOORS and in the README's map"
    assert imports_from_above(file.read_text(), FLOORS.get(room, TOP_FLOOR)) == []


@pytest.mark.parametrize("file", sorted((PACKAGE / "models").glob("*.py")), ids=lambda file: file.name)
def test_the_models_import_only_torch_transformers_siblings_and_the_way_to_the_hub(file):
    known = ("hf_ssl_speech.models", "hf_ssl_speech.uploading")
    others = {module for module in imported_modules(file.read_text()) if not module.startswith(known)}
    assert {module.split(".")[0] for module in others} <= MODEL_LIBRARIES


def test_the_check_sees_an_import_from_above():
    assert imports_from_above("def late():\n    from hf_ssl_speech.training.trainer import X", 1)
    assert imports_from_above("from hf_ssl_speech import SSLHubertModel", FLOORS["hub"])
    assert imports_from_above("import hf_ssl_speech.hub", FLOORS["recipes"])
    assert imports_from_above("from hf_ssl_speech.units.kmeans import fit_kmeans", FLOORS["data"])
    assert not imports_from_above("from hf_ssl_speech.units.kmeans import fit_kmeans\nimport torch", FLOORS["units"])
