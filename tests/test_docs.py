"""What the README and the pages in docs/ say is there is there, and their code runs."""

import contextlib
import functools
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import save_encoder, tiny_model
from torture.inputs import save_recognizer

import hf_ssl_speech
from hf_ssl_speech import HiddenFeatures, KMeansUnits, SSLHubertModel
from hf_ssl_speech.commands.main import COMMANDS, main
from hf_ssl_speech.data.feature_extractor import feature_extractor_for

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
HERE = [
    "README.md",
    "docs/hubert.md",
    "docs/collections.md",
    "docs/distillation.md",
    "docs/few_labels.md",
    "docs/noise.md",
    "docs/probes.md",
    "docs/units.md",
]  # other pages with code have tests of their own
SETTINGS_OF_TRAINER = ("pretrain", "units", "hubert", "finetune", "label-efficiency")
COMMAND = re.compile(r"hf-ssl-speech ([a-z-]+)([^\n`#|]*)")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the pages take for granted: recordings in two folders, models in `runs`."""
    folder = tmp_path_factory.mktemp("docs")
    generator = np.random.default_rng(0)
    for corpus in ("my_audio", "many_languages"):
        (folder / corpus).mkdir()
        for number in range(6):
            noise = generator.normal(scale=0.1, size=40_000)
            soundfile.write(folder / corpus / f"{number}.flac", noise, 16_000)
    torch.manual_seed(0)
    save_recognizer(folder / "runs" / "recogniser")
    source = HiddenFeatures.from_pretrained(save_encoder(folder / "runs" / "hubert", SSLHubertModel), 1, device="cpu")
    centroids = torch.randn(5, source.description.width)
    units = KMeansUnits(centroids, torch.ones(5), replace(source.description, encoder="runs/hubert"), {})
    units.save_pretrained(folder / "runs" / "better-units")
    classifier = tiny_model(hf_ssl_speech.SSLHubertForSequenceClassification, use_weighted_layer_sum=True)
    classifier.save_pretrained(folder / "runs" / "probes" / "SID" / "mine")
    feature_extractor_for(classifier.config).save_pretrained(folder / "runs" / "probes" / "SID" / "mine")
    return folder


@pytest.mark.parametrize("page", HERE)
def test_the_code_runs(page, place, monkeypatch):
    monkeypatch.chdir(place)
    shutil.rmtree(place / "runs" / "mine", ignore_errors=True)
    names = {}
    for block in blocks(ROOT / page, "python"):
        short = block.replace("max_steps=1000", "max_steps=1, use_cpu=True, report_to='none'")
        exec(compile(short, page, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_links_to_is_there(page):
    for link in re.findall(r"\]\(((?!http)[^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.fixture(scope="module")
def settings():
    """`settings(command)`: what its help says that it takes."""

    @functools.cache
    def find(command: str) -> set[str]:
        text = io.StringIO()
        everything = "--help-all" if command in SETTINGS_OF_TRAINER else "--help"
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([command, everything])
        return set(re.findall(r"--([a-z][a-z_-]*)", text.getvalue()))

    return find


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_their_settings_exist(page, settings):
    in_tables = re.findall(r"`(hf-ssl-speech [a-z].*?)`", page.read_text())
    for words in (block.replace("\\\n", " ") for block in [*blocks(page, "bash"), *in_tables]):
        for command, rest in COMMAND.findall(words):
            assert command in COMMANDS
            assert set(re.findall(r"--([a-z][a-z_-]*)", rest)) <= settings(command), (command, rest)


def test_targets_of_make_are_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), flags=re.MULTILINE)) <= targets


def test_every_file_stands_on_the_map():
    text = (ROOT / "docs" / "map.md").read_text()
    for file in (ROOT / "hf_ssl_speech").rglob("*.py"):
        if file.parent.name not in ("hf_ssl_speech",) and file.stem != "__init__":
            assert re.search(rf"\b{file.stem}\b", text), file
