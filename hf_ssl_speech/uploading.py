"""All uploads to the Hub: a repository with the requested visibility, one commit, and errors that say what to do."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

# Weights of a model, in one file or in shards: what an earlier push left of them would win over new ones.
WEIGHTS_PUSHED = ("model.safetensors", "model.safetensors.index.json", "model-[0-9]*-of-[0-9]*.safetensors")
ACCESS_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
# What the Hub says where a token, and not an account's storage or a gate, is what stands in the way.
ABOUT_RIGHTS = re.compile(r"\b(rights?|permissions?|tokens?|authori[sz]ed|forbidden|namespace|role)\b", re.IGNORECASE)
# Of the HTTP library that the client was built on: network errors, too, descend from it.
HTTP_ERROR = HfHubHTTPError.__bases__[0]


class PushFailed(OSError):
    """The Hub could not be reached or refused. The message says why and what to do; nothing here was lost."""


@dataclass(frozen=True)
class Pushed:
    """What a push did: the repository's address, the commit's, the files that were sent and those that were removed."""

    repository: str
    commit: str
    files: tuple[str, ...]
    removed: tuple[str, ...] = ()


class Repository:
    """A repository on the Hub to push to; created if missing.

    Args:
        repo_id: `name` or `owner/name`.
        private: Whether a new repository is; by default as its owner has it.
        token: Instead of the one logged in with.
        revision: Branch to commit to, made if it is not there; by default the main one.
        create_pr: Open a pull request instead. The repository must be there, and may be somebody else's.
        kept: What the messages of errors call that which stays here, unharmed.

    Attributes:
        repo_id: With its owner.
        files: Names of the files that lie there now.
    Raises:
        ValueError: If it is public, but should be private.
        PushFailed: If the Hub can't be reached or refuses.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        kept: str = "what is pushed",
    ):
        self.api = HfApi(token=token)
        self.repo_id, self.revision, self.create_pr, self.kept = repo_id, revision, create_pr, kept
        with self._told_in_words():
            user = self.api.whoami()["name"]
            self.repo_id = repo_id if "/" in repo_id else f"{user}/{repo_id}"
            if create_pr:
                self.url = f"{self.api.endpoint}/{self.repo_id}"
            else:
                self.url = str(self.api.create_repo(repo_id, private=private, exist_ok=True))
            if private and not self.api.repo_info(self.repo_id).private:
                raise ValueError(
                    f"{self.repo_id} already exists and is public: make it private first, or use another name."
                )
            self.files = self._list()

    def read(self, name: str) -> str | None:
        """The text of one of its files; None if it is not there."""
        if name not in self.files:
            return None
        with self._told_in_words(), tempfile.TemporaryDirectory() as folder:
            path = self.api.hf_hub_download(self.repo_id, name, revision=self.revision, local_dir=folder)
            return Path(path).read_text(encoding="utf-8-sig")

    def holding(self, *patterns: str) -> list[str]:
        """Its files whose names fit one of the patterns."""
        return [file for file in self.files if any(fnmatch(file, pattern) for pattern in patterns)]

    def commit(
        self, folder: str | os.PathLike, files: Sequence[str], message: str, *, removed: Iterable[str] = ()
    ) -> Pushed:
        """Sends files and removes others, in one commit.

        Args:
            folder: Where the files lie.
            files: Their paths in the folder, which are those in the repository.
            message: Of the commit.
            removed: Files of the repository that go.
        Raises:
            PushFailed: If the Hub can't be reached or refuses.
        """
        files, removed = sorted(files), sorted(set(removed).intersection(self.files).difference(files))
        changes = [CommitOperationDelete(name) for name in removed]
        changes += [CommitOperationAdd(name, os.fspath(Path(folder, name))) for name in files]
        with self._told_in_words():
            made = self.api.create_commit(
                self.repo_id, changes, commit_message=message, revision=self.revision, create_pr=self.create_pr or None
            )
        return Pushed(self.url, str(made.pr_url or made.commit_url), tuple(files), tuple(removed))

    def _list(self) -> list[str]:
        try:
            return self.api.list_repo_files(self.repo_id, revision=self.revision)
        except RevisionNotFoundError:
            self.api.create_branch(self.repo_id, branch=self.revision)
            return self.api.list_repo_files(self.repo_id, revision=self.revision)

    @contextlib.contextmanager
    def _told_in_words(self) -> Iterator[None]:
        """Turns what the client raises into a `PushFailed` that says what to do."""
        try:
            yield
        except (HTTP_ERROR, OSError, RuntimeError) as error:
            raise PushFailed(
                f"{reason(error, self.api.endpoint, self.repo_id)} Nothing in {self.kept} was lost. What has arrived "
                "there already is not sent again when you repeat the command."
            ) from error


def reason(error: BaseException, endpoint: str, repo_id: str) -> str:
    """Why a push failed, and the way out; never what was sent along, such as the token."""
    if isinstance(error, LocalTokenNotFoundError):
        return "No access token was found: log in with `hf auth login`, or set HF_TOKEN."
    if isinstance(error, OfflineModeIsEnabled):
        return "The client is set to stay offline: unset HF_HUB_OFFLINE."
    response = getattr(error, "response", None)
    if getattr(response, "status_code", None) is not None:
        said = ACCESS_TOKEN.sub("hf_...", getattr(error, "server_message", None) or "").strip()
        return _refusal(response, said, endpoint, repo_id)
    if isinstance(error, (HTTP_ERROR, ConnectionError)):
        return f"{endpoint} could not be reached ({type(error).__name__}). Check the network, or HF_ENDPOINT."
    if error.__cause__ is not None:
        return reason(error.__cause__, endpoint, repo_id)
    return f"The push to {endpoint} broke off: {ACCESS_TOKEN.sub('hf_...', str(error))}."


def _refusal(response, said: str, endpoint: str, repo_id: str) -> str:
    """What a status means, with the Hub's own words, and what can be done about it."""
    status = response.status_code
    words = f"{endpoint} answered with status {status} ({said or 'no message'})."
    if status == 401:
        return (
            f"{endpoint} refused the access token: it has expired or was revoked. Make one that may write at "
            f"{endpoint}/settings/tokens and log in with `hf auth login`, or set HF_TOKEN."
        )
    if status == 403 and (not said or ABOUT_RIGHTS.search(said)):
        return (
            f"The access token may not write to {repo_id} ({said or 'status 403'}): use a repository of your own, or "
            f"a token that may write ({endpoint}/settings/tokens)."
        )
    if status in (402, 413, 507) or (status == 403 and re.search(r"storage|quota|limit", said, re.IGNORECASE)):
        return f"{words} Make room ({endpoint}/settings/storage), or push to a repository of another owner."
    if status == 429:
        seconds = re.search(r"\bt=(\d+)", response.headers.get("ratelimit", ""))
        seconds = response.headers.get("retry-after") or (seconds and seconds[1])
        return f"{words} Too many requests were made: wait {f'{seconds} seconds' if seconds else 'a few minutes'}."
    if status >= 500:
        return f"{words} The fault is on the server's side: try again later."
    return words
