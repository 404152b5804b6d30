"""From a folder to a repository on the Hub: checks, the card, and the files to push."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import get_token

from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.evaluation.comparison import SCORES_FILE, read_scores
from hf_ssl_speech.files import read_json, write_json
from hf_ssl_speech.hub.card_edits import (
    STATED,
    is_hand_written,
    is_untouched,
    merge_metadata,
    merge_own,
    read_card,
)
from hf_ssl_speech.hub.card_sections import PICTURES
from hf_ssl_speech.hub.cards import (
    BENCHMARK_NOTES,
    CARD_FILE,
    benchmark_results,
    create_model_card,
    fill_card,
    find_kind,
)
from hf_ssl_speech.hub.exchange import load_model, to_transformers
from hf_ssl_speech.hub.wording import for_others
from hf_ssl_speech.models.configuration import AUTO_MODULE
from hf_ssl_speech.recognition.normalization import NORMALIZATION_FILE
from hf_ssl_speech.recognition.transcription import load_processor
from hf_ssl_speech.records import RECORD_FILE, read_record
from hf_ssl_speech.units.kmeans_units import CENTROIDS_FILE, FACTS_FILE, HERE, KMeansUnits
from hf_ssl_speech.uploading import ACCESS_TOKEN, WEIGHTS_PUSHED, Pushed, PushFailed, Repository

__all__ = ["PushFailed", "Pushed", "push_to_hub"]

logger = logging.getLogger(__name__)

UNITS_PUSHED = (CENTROIDS_FILE, FACTS_FILE)
# All that others need, file by file. What else lies in a folder was not meant for everybody: texts and notes, settings
# that name a language model on this machine, checkpoints, and anything pickled.
PUBLISHED = (
    *WEIGHTS_PUSHED,
    *UNITS_PUSHED,
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "vocab.json",
    NORMALIZATION_FILE,
    RECORD_FILE,
    SCORES_FILE,
    f"{AUTO_MODULE}.py",
    *PICTURES,
    CARD_FILE,
)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
FEATURE_EXTRACTOR = ("preprocessor_config.json", "processor_config.json")
NEEDED = {
    "pretraining": [WEIGHTS, FEATURE_EXTRACTOR],
    "ctc": [WEIGHTS, FEATURE_EXTRACTOR, ("vocab.json",), ("tokenizer_config.json",)],
    "probe": [WEIGHTS, FEATURE_EXTRACTOR],
    "units": [(CENTROIDS_FILE,)],
}
CALLED = {"pretraining": "a pretrained encoder", "ctc": "a CTC model", "probe": "a classifier", "units": "a unit set"}
RESULTS_FOLDER = ".eval_results"
RECORDS = {RECORD_FILE: dict, SCORES_FILE: list}


def push_to_hub(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    stock: bool = False,
    encoder: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    replace_card: bool = False,
    benchmarks: Mapping[str, str] | None = None,
    **card: Any,
) -> Pushed:
    """Pushes an encoder, a CTC model, a classifier or a unit set, with its card, to a repository.

    It is created if missing. The log first names the files that are pushed and those that are not. Files of an earlier
    push that this one does not write are removed in the same commit; other files there stay.

    The card is written to `README.md` in the folder (with `stock` and `encoder`, to what is pushed only); the words of
    one that somebody wrote by hand, here or on the Hub, are left and pushed as they are. The metadata of a card on the
    Hub (licence, languages, data sets and more) holds wherever this push says nothing else. Started again after an
    interruption, it sends what is missing.

    Args:
        folder: What a run left. Where a unit set lies beside a model, the model is what is pushed, and they go along.
        repo_id: `name` or `owner/name`.
        stock: Push a model in transformers' own form, which loads without this package, instead of ours.
        encoder: For units of a hidden layer: the repository of the encoder, whose folder only this machine has.
        private: Whether a new repository is; by default as its owner has it.
        token: Instead of the one logged in with.
        revision: Branch to commit to, made if it is not there; by default the main one.
        commit_message: Of the commit.
        create_pr: Open a pull request instead, in a repository that is there.
        replace_card: Replace the text of the card on the Hub, whoever edited it.
        benchmarks: Data sets with a leaderboard on the Hub that the model was evaluated on, and the task's name there.
        card: More arguments of `create_model_card`: `license`, `language`, `datasets`.
    Raises:
        ValueError: If files are missing, the run is not over, a file holds an access token, the metadata is wrong,
            `private` is asked of a public repository, units would take the place of a model, or the card was edited
            both here and there.
        PushFailed: If the Hub can't be reached or refuses.
    """
    folder = Path(folder)
    with prepared(folder, stock, encoder) as source:
        kind, _ = find_kind(source)
        results = benchmark_results(read_scores(source), benchmarks or {})
        check_tokens(folder, token)
        files = {path.name for path in published_files(source)} | {CARD_FILE}
        files |= {f"{RESULTS_FOLDER}/{name}" for name in results}
        create_model_card(source, **card)  # wrong metadata shows before anything is made on the Hub
        tell(folder, kind, files, repo_id)
        repository = Repository(
            repo_id, private=private, token=token, revision=revision, create_pr=create_pr, kept=f"{folder}"
        )
        if kind == "units" and "config.json" in repository.files:
            raise ValueError(
                f"{repository.repo_id} holds a model, whose card and record would be lost. Take another repository for "
                "the units, or put them beside the model: KMeansUnits.from_pretrained(folder).push_to_hub(...)."
            )
        is_made, text = choose_card(source, repository, replace_card, card)
        (source / CARD_FILE).write_text(text, encoding="utf-8")
        if is_made and not stock and encoder is None:
            shutil.copy(source / CARD_FILE, folder)
        for name, content in results.items():
            (source / RESULTS_FOLDER).mkdir(exist_ok=True)
            (source / RESULTS_FOLDER / name).write_text(yaml.safe_dump(content, sort_keys=False))
        message = commit_message or f"Upload {kind}" + (" in transformers' own form" if stock else "")
        return repository.commit(source, list(files), message, removed=left_by_us(repository, kind))


def tell(folder: Path, kind: str, files: Iterable[str], repo_id: str):
    """Logs which files are pushed and which are not, before anything is sent."""
    beside = ", and the unit set that lies beside it" if kind != "units" and FACTS_FILE in files else ""
    logger.info(f"{folder} is {CALLED[kind]}{beside}. To {repo_id} go: {', '.join(sorted(files))}.")
    kept = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name not in files)
    if kept:
        logger.info(f"These stay here: {', '.join(kept)}.")


def choose_card(source: Path, repository: Repository, replace_card: bool, card: Mapping[str, Any]) -> tuple[bool, str]:
    """The card to push, and whether it is made from the records: not if somebody wrote it, here or on the Hub.

    Raises:
        ValueError: If the one on the Hub was edited and can't be kept as it is.
    """
    ours, where = source / CARD_FILE, f"{CARD_FILE} of {repository.repo_id}"
    mine = ours.read_text(encoding="utf-8-sig") if ours.exists() else None  # only one in somebody's own words is there
    there = repository.read(CARD_FILE)
    theirs = None if there is None else read_card(there, where)
    metadata = theirs.data.to_dict() if theirs else {}
    given = {name: card.get(name) or metadata.get(name) for name in STATED}
    made = fill_card(source, repo_id=repository.repo_id, **{name: each for name, each in given.items() if each})
    own = None if mine is None else read_card(mine, f"{CARD_FILE} here")
    same_text = theirs and own and theirs.text.strip() == own.text.strip()
    if theirs is None or replace_card or same_text or is_untouched(there):
        if own is None:
            made.data = merge_metadata(made.data, metadata)
            return True, str(made)
        before = own.data.to_dict()
        own.data = merge_own(own.data, made.data, metadata, {name for name in STATED if card.get(name)})
        return False, mine if own.data.to_dict() == before else str(own)
    if is_hand_written(there) and own is None:
        logger.warning(f"The card of {repository.repo_id} is in somebody's own words, and stays; look at its figures.")
        theirs.data = merge_metadata(made.data, metadata)
        return False, str(theirs)
    raise ValueError(
        f"The card {where} was edited on the Hub, and this push would replace it. To keep it, remove the line there "
        f"that begins with '<!-- Made by', and leave no {CARD_FILE} in your own words here. To replace it, set "
        "replace_card."
    )


def left_by_us(repository: Repository, kind: str) -> list[str]:
    """What an earlier push may have left in a repository, of its files.

    Weights of a model always count: those of another form would be loaded instead of the new ones. Other files count
    only where a record says that we pushed before, results on leaderboards only if they are ours. A unit set beside a
    model has a push of its own, and stays.
    """
    if RECORD_FILE not in repository.files:
        return [] if kind == "units" else repository.holding(*WEIGHTS_PUSHED)
    results = repository.holding(f"{RESULTS_FOLDER}/*-[0-9]*.yaml")
    ours = [name for name in results if f"notes: {BENCHMARK_NOTES}" in (repository.read(name) or "")]
    return ours + repository.holding(*(name for name in PUBLISHED if name not in UNITS_PUSHED))


def export_stock(folder: str | os.PathLike, target: str | os.PathLike, **card: Any) -> Path:
    """Writes a complete folder in transformers' own form: model, processor, records and card. It needs no package.

    Args:
        folder: What a run left, an encoder or a CTC model.
        target: A new folder, or an empty one.
        card: More arguments of `create_model_card`: `license`, `language`, `datasets`, `repo_id`.
    Returns:
        The target.
    Raises:
        ValueError: If files are missing, the run is not over, it holds units, or the target holds something.
    """
    target = Path(target)
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty: give a new folder.")
    with prepared(Path(folder), stock=True, encoder=None) as source:
        if not (source / CARD_FILE).exists():  # only one in somebody's own words is there
            create_model_card(source, **{"repo_id": target.name, **card}).save(source / CARD_FILE)
        shutil.copytree(source, target, dirs_exist_ok=True)
    return target


@contextlib.contextmanager
def prepared(folder: Path, stock: bool, encoder: str | None) -> Iterator[Path]:
    """What is pushed of a folder, once it is found complete: its files, with records as they may leave this machine.

    Raises:
        ValueError: If it is not fit to be pushed.
    """
    kind, facts = find_kind(folder)
    check_folder(folder, kind)
    if kind == "units" and stock:
        raise ValueError(f"{folder} holds units: transformers has no form of its own for them.")
    # A set beside a model goes along, but for a push in transformers' own form.
    has_units = not stock and (folder / FACTS_FILE).exists()
    units = KMeansUnits.from_pretrained(folder) if has_units else None
    if units:
        units = units.for_others(HERE if units.lies_with_encoder(folder) else encoder)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary, folder.resolve().name)
        target.mkdir()
        for path in published_files(folder):
            if path.name in RECORDS:
                write_json(for_others(read_json(path, "a record", RECORDS[path.name])), target / path.name)
            elif path.name in UNITS_PUSHED:
                continue  # written anew below
            elif path.suffix == ".safetensors":
                if not stock:
                    (target / path.name).symlink_to(path.resolve())
            elif path.name.endswith(".index.json"):
                if not stock:
                    shutil.copy(path, target)
            elif path.name != CARD_FILE or is_hand_written(path.read_text(encoding="utf-8")):
                shutil.copy(path, target)
        if stock:
            save_stock(folder, facts, target)
        elif units:
            units.save_pretrained(target)
        yield target


def save_stock(folder: Path, config: dict[str, Any], target: Path):
    """Writes a model in transformers' own form, with what prepares its input in files that version 4 reads too."""
    stock = to_transformers(load_model(folder))
    stock.save_pretrained(target)
    if config["architectures"][0].endswith("ForCTC"):
        load_processor(folder).save_pretrained(target)
    feature_extractor_for(stock.config, str(folder)).save_pretrained(target)
    # The one holds the feature extractor where transformers 4 can't read it; the other would ask for this package.
    for name in ("processor_config.json", f"{AUTO_MODULE}.py"):
        (target / name).unlink(missing_ok=True)


def check_folder(folder: Path, kind: str):
    """Raises a ValueError, in words, if files are missing or the run is not over."""
    missing = [" or ".join(names) for names in NEEDED[kind] if not any((folder / name).exists() for name in names)]
    if missing:
        raise ValueError(f"{folder} is not complete: it lacks {', '.join(missing)}. Was the run finished and saved?")
    record = read_record(folder)
    if record and record["status"] in ("running", "failed"):
        raise ValueError(
            f"The run in {folder} is {record['status']}, at update {record['updates'] or 0:,}"
            + (f" ({record['cause']})" if record["cause"] else "")
            + ". Start it again and let it finish before you publish it."
        )


def published_files(folder: Path) -> list[Path]:
    """The files of a folder that others need."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and any(fnmatch(path.name, name) for name in PUBLISHED)
    ]


def check_tokens(folder: Path, token: str | None):
    """Raises a ValueError if a file to push holds an access token, as the command of a run may."""
    secret = token or get_token()
    for path in published_files(folder):
        if path.suffix not in (".safetensors", ".png"):
            text = path.read_text(errors="replace")
            if ACCESS_TOKEN.search(text) or (secret and secret in text):
                raise ValueError(f"{path} holds an access token: remove it, since everybody could read it on the Hub.")
