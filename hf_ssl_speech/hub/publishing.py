"""From a folder to a repository on the Hub: checks, the card, the upload, and errors that say what to do."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from hf_ssl_speech.data.feature_extractor import feature_extractor_for
from hf_ssl_speech.evaluation.comparison import SCORES_FILE, read_scores
from hf_ssl_speech.files import read_json, write_json
from hf_ssl_speech.hub.cards import CARD_FILE, benchmark_results, create_model_card, find_kind, is_hub_id
from hf_ssl_speech.hub.exchange import load_model, to_transformers
from hf_ssl_speech.hub.wording import for_others
from hf_ssl_speech.models.configuration import AUTO_MODULE
from hf_ssl_speech.recognition.decoding import DECODER_FILE
from hf_ssl_speech.recognition.transcription import load_processor
from hf_ssl_speech.records import RECORD_FILE, read_record
from hf_ssl_speech.units.kmeans_units import CENTROIDS_FILE, KMeansUnits

# Files that others need. Checkpoints, optimizer states and anything pickled stay here.
PUBLISHED_SUFFIXES = (".json", ".safetensors", ".png", ".txt", ".md")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
FEATURE_EXTRACTOR = ("preprocessor_config.json", "processor_config.json")
NEEDED = {
    "pretraining": [WEIGHTS, FEATURE_EXTRACTOR],
    "ctc": [WEIGHTS, FEATURE_EXTRACTOR, ("vocab.json",), ("tokenizer_config.json",)],
    "units": [(CENTROIDS_FILE,)],
}
RESULTS_FOLDER = ".eval_results"
RECORDS = {RECORD_FILE: dict, SCORES_FILE: list}
# Cards with one of these were written by a program, and are made anew.
GENERATED = ("Made by hf_ssl_speech from run.json", "generated automatically according to the information the Trainer")
ACCESS_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
# Of the HTTP library that the client was built on: network errors, too, descend from it.
HTTP_ERROR = HfHubHTTPError.__bases__[0]


class PushFailed(OSError):
    """The Hub could not be reached or refused. The message says why and what to do; nothing here was lost."""


@dataclass(frozen=True)
class Pushed:
    """What lies on the Hub now: the repository's address, the commit's, and the files."""

    repository: str
    commit: str
    files: tuple[str, ...]


def push_to_hub(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    stock: bool = False,
    encoder: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    benchmarks: Mapping[str, str] | None = None,
    **card: Any,
) -> Pushed:
    """Puts an encoder, a CTC model or a unit set, with its card, into a repository, which is made if it is not there.

    The card is written to `README.md` in the folder (with `stock` and `encoder`, to what is pushed only); one that
    somebody wrote by hand is left and pushed as it is. Started again after an interruption, it sends what is missing.

    Args:
        folder: What a run left.
        repo_id: `name` or `owner/name`.
        stock: Push a model in transformers' own form, which loads without this package, instead of ours.
        encoder: For units of a hidden layer: the repository of the encoder, whose folder only this machine has.
        private: Whether a new repository is; by default as its owner has it.
        token: Instead of the one logged in with.
        benchmarks: Data sets with a leaderboard on the Hub that the model was evaluated on, and the task's name there.
        card: More arguments of `create_model_card`: `license`, `language`, `datasets`.
    Raises:
        ValueError: If files are missing, the run is not over, a file holds an access token, the metadata is wrong, or
            `private` is asked of a public repository.
        PushFailed: If the Hub can't be reached or refuses.
    """
    folder = Path(folder)
    with prepared(folder, stock, encoder) as source:
        results = benchmark_results(read_scores(source), benchmarks or {})
        check_tokens(folder, token)
        files = {path.name for path in published_files(source)} | {CARD_FILE}
        files |= {f"{RESULTS_FOLDER}/{name}" for name in results}
        create_model_card(source, **card)  # wrong metadata shows before anything is made on the Hub
        api = HfApi(token=token)
        with told_in_words(folder, api.endpoint, repo_id):
            user = api.whoami()["name"]
            repository = api.create_repo(repo_id, private=private, exist_ok=True)
            repo_id = repo_id if "/" in repo_id else f"{user}/{repo_id}"
            if private and not api.repo_info(repo_id).private:
                raise ValueError(f"{repo_id} is there already, and public: make it private first, or use another name.")
        if not is_hand_written(source / CARD_FILE):
            create_model_card(source, repo_id=repo_id, **card).save(source / CARD_FILE)
            if not stock and encoder is None:
                shutil.copy(source / CARD_FILE, folder)
        for name, content in results.items():
            (source / RESULTS_FOLDER).mkdir(exist_ok=True)
            (source / RESULTS_FOLDER / name).write_text(yaml.safe_dump(content, sort_keys=False))
        message = f"Upload {find_kind(source)[0]}" + (" in transformers' own form" if stock else "")
        with told_in_words(folder, api.endpoint, repo_id):
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=source, allow_patterns=sorted(files), commit_message=message
            )
    return Pushed(str(repository), str(commit.commit_url), tuple(sorted(files)))


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
        raise ValueError(f"{target} holds something already: give a new folder.")
    with prepared(Path(folder), stock=True, encoder=None) as source:
        if not is_hand_written(source / CARD_FILE):
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
    if kind == "units":
        if stock:
            raise ValueError(f"{folder} holds units: transformers has no form of its own for them.")
        source = facts["features"]["encoder"]
        if facts["features"]["kind"] == "hidden" and not is_hub_id(encoder or source):
            raise ValueError(
                f"These units are made of {source}, which nobody else has: push that encoder first, and name its "
                "repository with `encoder`."
            )
    another_form = stock or (encoder is not None and kind == "units")  # whose weights are written anew
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary, folder.resolve().name)
        target.mkdir()
        for path in published_files(folder):
            if path.name in RECORDS:
                write_json(for_others(read_json(path, "a record", RECORDS[path.name])), target / path.name)
            elif path.suffix == ".safetensors":
                if not another_form:
                    (target / path.name).symlink_to(path.resolve())
            elif path.name != CARD_FILE or is_hand_written(path):
                shutil.copy(path, target)
        if stock:
            save_stock(folder, facts, target)
        elif another_form:
            units = KMeansUnits.from_pretrained(folder)
            units.features = replace(units.features, encoder=encoder)
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
            + ". Start it again and let it come to its end before it is published."
        )


def published_files(folder: Path) -> list[Path]:
    """The files of a folder that others need; a decoder's settings name a language model that only this machine has."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.name != DECODER_FILE
        and (path.suffix in PUBLISHED_SUFFIXES or path.name == f"{AUTO_MODULE}.py")
    ]


def check_tokens(folder: Path, token: str | None):
    """Raises a ValueError if a file to push holds an access token, as the command of a run may."""
    secret = token or get_token()
    for path in published_files(folder):
        if path.suffix not in (".safetensors", ".png"):
            text = path.read_text(errors="replace")
            if ACCESS_TOKEN.search(text) or (secret and secret in text):
                raise ValueError(f"{path} holds an access token: take it out, everybody would read it on the Hub.")


def is_hand_written(card: Path) -> bool:
    """Whether somebody wrote the card, or took it over by removing the line that says how it was made."""
    return card.exists() and not any(mark in card.read_text() for mark in GENERATED)


@contextlib.contextmanager
def told_in_words(folder: Path, endpoint: str, repo_id: str) -> Iterator[None]:
    """Turns what the client raises into a `PushFailed` that says what to do."""
    try:
        yield
    except (HTTP_ERROR, OSError, RuntimeError) as error:
        raise PushFailed(
            f"{reason(error, endpoint, repo_id)} Nothing in {folder} was lost. What has arrived there already is not "
            "sent again when you repeat the command."
        ) from error


def reason(error: BaseException, endpoint: str, repo_id: str) -> str:
    """Why a push failed, and the way out; never what was sent along, such as the token."""
    if isinstance(error, LocalTokenNotFoundError):
        return "No access token was found: log in with `hf auth login`, or set HF_TOKEN."
    if isinstance(error, OfflineModeIsEnabled):
        return "The client is told to stay offline: unset HF_HUB_OFFLINE."
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 401:
        return (
            f"{endpoint} refused the access token: it has expired or was revoked. Make one that may write at "
            f"{endpoint}/settings/tokens and log in with `hf auth login`, or set HF_TOKEN."
        )
    if status == 403:
        return (
            f"The access token may not write to {repo_id}: take a repository of your own, or a token that may write "
            f"({endpoint}/settings/tokens)."
        )
    if status is not None:
        return f"{endpoint} answered with status {status} ({getattr(error, 'server_message', None) or 'no message'})."
    if isinstance(error, (HTTP_ERROR, ConnectionError)):
        return f"{endpoint} could not be reached ({type(error).__name__}). Check the network, or HF_ENDPOINT."
    if error.__cause__ is not None:
        return reason(error.__cause__, endpoint, repo_id)
    return f"The push to {endpoint} broke off: {ACCESS_TOKEN.sub('hf_...', str(error))}."
