"""A stand-in of the Hub on this machine: the part of its protocol that the real client speaks to push and to load.

Account, repository, preupload, LFS (batch, PUT, verify), commit, resolve. Its faults are switched on by tests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".png", ".bin")


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])
    branches: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def at(self, revision: str) -> dict[str, bytes]:
        """The files of a branch, `main` or another one."""
        if revision == "main" or revision in self.commits:
            return self.files
        if revision not in self.branches:
            raise Refused(404, "Invalid rev id", "RevisionNotFound")
        return self.branches[revision]


class HubStandIn:
    """Repositories in memory behind a real HTTP server; `with HubStandIn() as hub: ... hub.url`.

    Attributes:
        tokens: Access token -> user name, and whether it may write.
        requests: Method and path of every request, in order.
        drop_uploads: So many LFS uploads from now on break off in the middle.
        fail_commits: So many commits from now on are answered with status 500.
        refuse_commits: Status and message of the answer to every commit; None lets them through.
    """

    def __init__(self):
        self.tokens: dict[str, tuple[str, bool]] = {}
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.drop_uploads = self.fail_commits = 0
        self.refuse_commits: tuple[int, str] | None = None
        self.lock = threading.Lock()
        handler = type("Handler", (HubHandler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> HubStandIn:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def count(self, method: str, pattern: str) -> int:
        """Requests so far of a method whose path holds a pattern."""
        return sum(made == method and re.search(pattern, path) is not None for made, path in self.requests)


class Refused(Exception):
    """An error as the Hub answers it."""

    def __init__(self, status: int, message: str, code: str | None = None):
        self.status, self.message, self.code = status, message, code


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubStandIn
    routes = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate_card"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/[^/]+", "preupload"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
        ("POST", r"/lfs/verify", "lfs_verify"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<branch>[^/]+)", "branch"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+).*", "tree"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/[^/]+)?", "info"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/[^/]+/(?P<path>.+)", "resolve"),
    )

    def serve(self):
        self.sent: bytes | None = None
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
        method = "GET" if self.command == "HEAD" else self.command
        try:
            for expected, pattern, name in self.routes:
                match = re.fullmatch(pattern, path)
                if match and expected == method:
                    getattr(self, name)(**match.groupdict())
                    return
            raise Refused(404, f"The stand-in does not know {path}.")
        except Refused as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self.answer({"error": refused.message}, status=refused.status, headers=headers)

    do_GET = do_HEAD = do_POST = do_PUT = serve

    # Account and repositories ----------------------------------------------------------------------------------------

    def user(self, write: bool = False) -> str | None:
        """Who asks; None without a token."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        name, may_write = self.hub.tokens[token]
        if write and not may_write:
            raise Refused(403, "You don't have the rights to write: this token is read-only")
        return name

    def repository(self, repo: str, write: bool = False) -> Repository:
        name, found = self.user(write), self.hub.repositories.get(repo)
        if found is None or (found.private and name != repo.split("/")[0]):
            raise Refused(404 if name else 401, "Repository not found", "RepoNotFound")
        if write and name != repo.split("/")[0]:
            raise Refused(403, f"You don't have the rights to write to {repo}")
        return found

    def whoami(self):
        if self.user() is None:
            raise Refused(401, "Invalid username or password.")
        self.answer({"type": "user", "name": self.user()})

    def create(self):
        asked, name = json.loads(self.body()), self.user(write=True)
        owner = asked.get("organization") or name
        repo = f"{owner}/{asked['name']}"
        if owner != name:
            raise Refused(403, f"You don't have the rights to create a model under the namespace {owner}")
        status = 409 if repo in self.hub.repositories else 200
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.repositories.setdefault(repo, Repository(private))
        self.answer({"url": f"{self.hub.url}/{repo}", "name": repo}, status=status)

    def validate_card(self):
        """What the Hub is known to refuse in the metadata of a card."""
        metadata = yaml.safe_load(json.loads(self.body())["content"].split("---\n")[1]) or {}
        errors = [f"{name} is empty" for name, value in metadata.items() if value is None]
        languages = metadata.get("language", [])
        codes = [languages] if isinstance(languages, str) else languages
        errors += [f"language {code}" for code in codes if not re.fullmatch(r"[a-z]{2,3}|multilingual|code", code)]
        names = metadata.get("datasets", []) + [metadata[key] for key in ("base_model",) if key in metadata]
        for model in metadata.get("model-index", []):
            for result in model["results"]:
                names.append(result["dataset"]["type"])
                errors += [f"{key} is missing" for key in ("type", "name") if key not in result["dataset"]]
                errors += ["value is no number" for each in result["metrics"] if not isinstance(each["value"], float)]
        errors += [f"{name} is no id" for name in names if not re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", name)]
        self.answer({"errors": [{"message": each} for each in errors], "warnings": []}, 400 if errors else 200)

    # Uploads ----------------------------------------------------------------------------------------------------------

    def preupload(self, repo):
        files = self.repository(repo, write=True).files
        answers = []
        for asked in json.loads(self.body())["files"]:
            path, mode = asked["path"], "lfs" if asked["path"].endswith(LFS_SUFFIXES) else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            answers.append(answer | ({"oid": etag(path, files[path])} if path in files else {}))
        self.answer({"files": answers})

    def lfs_batch(self, repo):
        self.repository(repo, write=True)
        objects = []
        for asked in json.loads(self.body())["objects"]:
            oid = asked["oid"]
            links = {
                "upload": {"href": f"{self.hub.url}/lfs/{oid}"},
                "verify": {"href": f"{self.hub.url}/lfs/verify"},
            }
            objects.append(asked if oid in self.hub.objects else asked | {"actions": links})
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        with self.hub.lock:
            drop, self.hub.drop_uploads = self.hub.drop_uploads > 0, max(self.hub.drop_uploads - 1, 0)
        if drop:
            self.rfile.read(1000)
            self.close_connection = True
            self.connection.close()
            return
        content = self.body()
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, "The content is not what was announced")
        self.hub.objects[oid] = content
        self.answer({})

    def lfs_verify(self):
        asked = json.loads(self.body())
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "Object not found")
        self.answer({})

    def branch(self, repo, branch):
        repository = self.repository(repo, write=True)
        repository.branches[branch] = dict(repository.files)
        self.answer({})

    def commit(self, repo, revision):
        repository, content = self.repository(repo, write=True), self.body()
        files, asks_to_pull = repository.at(revision), "create_pr=1" in urlsplit(self.path).query
        files = dict(files) if asks_to_pull else files
        if self.hub.fail_commits > 0:
            self.hub.fail_commits -= 1
            raise Refused(500, "Internal error")
        if self.hub.refuse_commits:
            raise Refused(*self.hub.refuse_commits)
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        repository.commits.append(hashlib.sha1(content + repository.commits[-1].encode()).hexdigest())
        sha = repository.commits[-1]
        pulled = {"pullRequestUrl": f"{self.hub.url}/{repo}/discussions/1"} if asks_to_pull else {}
        self.answer({"commitUrl": f"{self.hub.url}/{repo}/commit/{sha}", "commitOid": sha, "success": True} | pulled)

    # Downloads --------------------------------------------------------------------------------------------------------

    def info(self, repo, **_):
        found = self.repository(repo)
        siblings = [{"rfilename": path} for path in sorted(found.files)]
        self.answer(
            {"id": repo, "modelId": repo, "private": found.private, "sha": found.commits[-1], "siblings": siblings,
             "tags": [], "disabled": False, "gated": False, "downloads": 0, "likes": 0}
        )  # fmt: skip

    def tree(self, repo, revision):
        files = self.repository(repo).at(revision)
        entries = [{"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
                   for path, content in sorted(files.items())]  # fmt: skip
        self.answer(entries)

    def resolve(self, repo, path):
        found = self.repository(repo)
        headers = {"X-Repo-Commit": found.commits[-1]}
        if path not in found.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        content = found.files[path]
        self.answer(content, headers=headers | {"ETag": f'"{etag(path, content)}"'})

    # HTTP -------------------------------------------------------------------------------------------------------------

    def body(self) -> bytes:
        """What the client sent, with a length or in chunks."""
        if self.sent is None and self.headers.get("Transfer-Encoding") == "chunked":
            self.sent = b""
            while size := int(self.rfile.readline(), 16):
                self.sent += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        elif self.sent is None:
            self.sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return self.sent

    def answer(self, content: bytes | dict | list, status: int = 200, headers: dict[str, str] | None = None):
        self.body()  # what is left unread would be taken for the next request
        is_json = not isinstance(content, bytes)
        content = json.dumps(content).encode() if is_json else content
        self.send_response(status)
        headers = {"Content-Type": "application/json" if is_json else "application/octet-stream"} | (headers or {})
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *message):
        pass


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag(path: str, content: bytes) -> str:
    """SHA-256 of what is stored as LFS, git's hash of the rest."""
    return hashlib.sha256(content).hexdigest() if path.endswith(LFS_SUFFIXES) else git_hash(content)
