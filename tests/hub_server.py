"""A Hub on 127.0.0.1: the endpoints that huggingface_hub, transformers and datasets use to push and to load.

Written after the requests that the clients make and what they read from the answers; what no client asks for is not
here. Uploads go by LFS, so clients run with HF_HUB_DISABLE_XET=1. Contents lie on disk under their SHA-256, and a
commit is made whole or not at all. Faults can be set on a running `Hub`, see there.
"""

import hashlib
import json
import os
import re
import secrets
import socket
import sys
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.utils import HFValidationError, validate_repo_id

WRITE_TOKEN, READ_TOKEN, STRANGERS_TOKEN = "hf_write", "hf_read", "hf_stranger"
TOKENS = {WRITE_TOKEN: ("me", True), READ_TOKEN: ("me", False), STRANGERS_TOKEN: ("somebody", True)}
GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
LARGEST_REGULAR_FILE = 10 * 2**20
BLOCK = 2**20
LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "other", "unknown"}  # of the Hub's, what these tests use


@dataclass(frozen=True)
class File:
    """A file of a commit."""

    sha256: str
    size: int
    oid: str  # git's
    lfs: bool


@dataclass(frozen=True)
class Commit:
    """A version of a repository."""

    oid: str
    parent: str | None
    title: str
    files: dict[str, File]


@dataclass
class Repository:
    """Branches and tags by name, commits by oid."""

    owner: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)


@dataclass
class Ticket:
    """Permission to upload one content, and the parts that came."""

    sha256: str
    size: int
    parts: dict[int, Path] = field(default_factory=dict)


class Refusal(Exception):
    """An error as the Hub answers it."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


class Hub:
    """What the server knows and did.

    Attributes to set, each from then on:
        break_uploads_from: the how-manieth upload breaks, and all after it; counted by `uploads`, which may be reset.
        break_how: "drop" closes the connection in the middle, "hang" never answers.
        drop_commits: by repository, "before" closes the connection in the middle of a commit, "after" once it is made.
        before_commit: called with the repository before the next commit.
        gitignore: names that the server does not take, as a .gitignore in the repository does.
    To read:
        requests: (method, path) of every request.
        unknown: those that no endpoint here answers.
        reached: set when an upload breaks.
        arrived: how many contents were uploaded whole.
    """

    def __init__(self, root: Path, part_size: int = 64 * 2**20):
        self.blobs, self.arriving = root / "blobs", root / "arriving"
        for folder in (self.blobs, self.arriving):
            folder.mkdir(parents=True)
        self.part_size = part_size
        self.url = self.storage_url = ""
        self.lock = threading.RLock()
        self.repositories: dict[str, Repository] = {}
        self.tickets: dict[str, Ticket] = {}
        self.requests: list[tuple[str, str]] = []
        self.unknown: list[tuple[str, str]] = []
        self.created: list[dict[str, Any]] = []
        self.uploads = self.arrived = 0
        self.break_uploads_from: int | None = None
        self.break_how = "drop"
        self.drop_commits: dict[str, str] = {}
        self.before_commit: Callable[[Repository], None] | None = None
        self.gitignore: tuple[str, ...] = ()
        self.reached = threading.Event()

    def mend(self) -> None:
        """Take back every fault, and count anew."""
        self.break_uploads_from = self.before_commit = None
        self.drop_commits, self.gitignore = {}, ()
        self.uploads = self.arrived = 0
        self.reached.clear()

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The contents of a version, without what the Hub put there itself."""
        commit = self.repositories[repo_id].find(revision)
        return {
            path: (self.blobs / file.sha256).read_bytes()
            for path, file in commit.files.items()
            if path != ".gitattributes"
        }

    def history(self, repo_id: str, branch: str = "main") -> list[str]:
        """Titles of the commits of a branch, the newest first."""
        repository, titles = self.repositories[repo_id], []
        oid = repository.branches[branch]
        while oid:
            commit = repository.commits[oid]
            titles.append(commit.title)
            oid = commit.parent
        return titles

    # --- contents -----------------------------------------------------------------------------------------------

    def store(self, content: bytes, lfs: bool = False) -> File:
        """Keep a content that came in a request's body."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.arriving / secrets.token_hex(8)
        path.write_bytes(content)
        path.rename(self.blobs / sha256)
        return File(sha256, len(content), git_oid(content), lfs)

    def receive(self, ticket: Ticket, paths: list[Path]) -> None:
        """Keep an uploaded content; 400 where it is not the announced one."""
        digest, size, whole = hashlib.sha256(), 0, self.arriving / secrets.token_hex(8)
        with whole.open("wb") as file:
            for path in paths:
                with path.open("rb") as part:
                    while block := part.read(BLOCK):
                        digest.update(block)
                        size += file.write(block)
                path.unlink()
        if (digest.hexdigest(), size) != (ticket.sha256, ticket.size):
            whole.unlink()
            raise Refusal(400, "the content is not the announced one")
        whole.rename(self.blobs / ticket.sha256)
        with self.lock:
            self.arrived += 1

    def large_file(self, sha256: str) -> File:
        """The entry of an uploaded content; 400 where it never came."""
        path = self.blobs / sha256
        if not path.is_file():
            raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {sha256}")
        size = path.stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return File(sha256, size, git_oid(pointer.encode()), lfs=True)

    # --- repositories -------------------------------------------------------------------------------------------

    @staticmethod
    def name_of(user: str, body: dict[str, Any]) -> str:
        """The repository that a request to make one means, as in the address of its page."""
        repo_id, kind = f"{body.get('organization') or user}/{body['name']}", body.get("type", "model")
        return repo_id if kind == "model" else f"{kind}s/{repo_id}"

    def create(self, user: str, body: dict[str, Any]) -> str:
        """Make a repository with the first commit that the Hub makes; its id."""
        owner, kind = body.get("organization") or user, body.get("type", "model")
        repo_id = self.name_of(user, body)
        if owner != user:
            raise Refusal(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        if kind == "space" and "sdk" not in body:
            raise Refusal(400, "a Space needs an sdk")
        with self.lock:
            if repo_id in self.repositories:
                raise Refusal(409, f"You already created this {kind} repo")
            self.created.append(body)
            repository = Repository(owner, private=body.get("visibility", "public") == "private")
            self.repositories[repo_id] = repository
            self.add_commit(repository, "main", "initial commit", {".gitattributes": self.store(GITATTRIBUTES)})
        return repo_id

    def add_commit(self, repository: Repository, branch: str, title: str, files: dict[str, File]) -> Commit:
        """Move a branch to a new version."""
        parent = repository.branches.get(branch)
        content = [parent, title, sorted((path, file.sha256) for path, file in files.items()), len(repository.commits)]
        oid = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        commit = repository.commits[oid] = Commit(oid, parent, title, files)
        repository.branches[branch] = oid
        return commit

    def commit(self, repository: Repository, branch: str, lines: list[dict[str, Any]]) -> Commit:
        """Apply all operations of a commit, or none."""
        header = next(line["value"] for line in lines if line["key"] == "header")
        with self.lock:
            if branch not in repository.branches:
                raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            if self.before_commit:
                self.before_commit(repository)
            parent = header.get("parentCommit")
            if parent is not None and parent != repository.branches[branch]:
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repository.commits[repository.branches[branch]].files)
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = self.store(b64decode(value["content"]))
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.large_file(value["oid"])
                elif line["key"] == "deletedFile":
                    if files.pop(value["path"], None) is None:
                        raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
                elif line["key"] != "header":
                    raise Refusal(400, f"unknown operation {line['key']}")
            return self.add_commit(repository, branch, header["summary"], files)


def git_oid(content: bytes) -> str:
    """The name that git gives a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub keeps a file outside git: what .gitattributes names, what is large, what is no text."""
    return path.endswith(".safetensors") or size > LARGEST_REGULAR_FILE or b"\0" in sample


def card_errors(content: str) -> list[str]:
    """What is wrong with a card's front matter, as far as huggingface_hub's own classes know it."""
    try:
        data = ModelCard(content).data
    except (ValueError, TypeError, yaml.YAMLError) as error:
        return [f"{type(error).__name__}: {error}"]
    errors = []
    for base in [data.base_model] if isinstance(data.base_model, str) else data.base_model or []:
        try:
            validate_repo_id(base)
        except HFValidationError as error:
            errors.append(f'"base_model" is invalid: {error}')
    if data.license is not None and str(data.license) not in LICENCES:
        errors.append(f'"license" must be one of {sorted(LICENCES)}, and is {data.license!r}')
    for name, kind in (("library_name", str), ("pipeline_tag", str), ("tags", list)):
        value = getattr(data, name)
        if value is not None and not isinstance(value, kind):
            errors.append(f'"{name}" must be a {kind.__name__}, and is {value!r}')
    return errors


ROUTES: list[tuple[str, re.Pattern, Callable]] = []
REPO = r"(?P<repo>(?:datasets/|spaces/)?[\w.-]+/[\w.-]+)"  # as in the address of its page
API = r"/api/(?P<repo>(?:models|datasets|spaces)/[\w.-]+/[\w.-]+)"
REVISION = r"(?P<revision>[^/]+)"


def route(method: str, pattern: str) -> Callable:
    """Declare the function that answers the requests of one form."""

    def declare(function: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return declare


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: "HubServer"

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def log_message(self, *args: Any) -> None:
        """The tests read `Hub.requests` instead."""

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        path, self.query = url.path, {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.hub.requests.append((self.command, path))
        self.unread = True
        try:
            for method, pattern, function in ROUTES:
                match = pattern.fullmatch(path)
                if match and self.command in method.split("|"):
                    parts = {name: unquote(value) for name, value in match.groupdict().items() if value}
                    if "repo" in parts:
                        parts["repo"] = parts["repo"].removeprefix("models/")
                    function(self, **parts)
                    return
            self.hub.unknown.append((self.command, path))
            raise Refusal(404, f"no endpoint {self.command} {path}")
        except Refusal as refusal:
            self.drain()
            headers = {"X-Error-Message": refusal.message, **refusal.headers}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.answer_json({"error": refusal.message}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    # --- bodies -------------------------------------------------------------------------------------------------

    def blocks(self) -> Iterator[bytes]:
        """The body, piece by piece, whether it came with its length or in chunks."""
        self.unread = False
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.exactly(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        remaining = int(self.headers.get("Content-Length") or 0)
        while remaining:
            block = self.exactly(min(BLOCK, remaining))
            remaining -= len(block)
            yield block

    def exactly(self, size: int) -> bytes:
        content = self.rfile.read(size)
        if len(content) < size:
            raise ConnectionAbortedError("the client went away in the middle of a body")
        return content

    def body(self) -> Any:
        """What came as JSON, or as a form: name -> list of values."""
        content = b"".join(self.blocks())
        is_form = self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
        return parse_qs(content.decode()) if is_form else json.loads(content)

    def drain(self) -> None:
        """Read what is left of a body, so that the connection can go on."""
        if self.unread:
            for _ in self.blocks():
                pass

    def drop(self) -> None:
        """Break the connection."""
        self.close_connection = True
        with suppress(OSError):  # the client may have done so
            self.connection.shutdown(socket.SHUT_RDWR)

    # --- answers ------------------------------------------------------------------------------------------------

    def answer(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.drain()
        self.send_response(status, HTTPStatus(status).phrase)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.answer(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())

    def answer_blob(self, file: File, headers: dict[str, str]) -> None:
        """A content from disk, or the range of it that was asked for."""
        self.drain()
        first, last, status = 0, file.size - 1, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last, status = int(asked[1]), min(last, int(asked[2] or last)), 206
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{file.size}"}
        self.send_response(status)
        for name, value in {**headers, "Accept-Ranges": "bytes", "Content-Length": str(last - first + 1)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with (self.hub.blobs / file.sha256).open("rb") as content:
            content.seek(first)
            remaining = last - first + 1
            while remaining:
                remaining -= self.wfile.write(content.read(min(BLOCK, remaining)))

    # --- who may what -------------------------------------------------------------------------------------------

    def user(self) -> tuple[str | None, bool]:
        """Whose token came and whether it may write; 401 for one that does not exist."""
        header = self.headers.get("Authorization")
        if header is None:
            return None, False
        if header.removeprefix("Bearer ") not in TOKENS:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return TOKENS[header.removeprefix("Bearer ")]

    def readable(self, repo: str) -> Repository:
        name, _ = self.user()
        repository = self.hub.repositories.get(repo)
        if repository is None or (repository.private and name != repository.owner):
            raise Refusal(404 if name else 401, "Repository not found", "RepoNotFound")
        return repository

    def writable(self, repo: str) -> Repository:
        repository, (name, may_write) = self.readable(repo), self.user()
        if name != repository.owner or not may_write:
            raise Refusal(403 if name else 401, "this token may not write to the repository")
        return repository

    def version(self, repository: Repository, revision: str) -> Commit:
        commit = repository.find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit


# --- accounts, repositories and their versions -----------------------------------------------------------------------


@route("GET", "/api/whoami-v2")
def whoami(request: Handler) -> None:
    name, _ = request.user()
    if name is None:
        raise Refusal(401, "Invalid username or password.")
    request.answer_json({"type": "user", "name": name, "orgs": [], "auth": {"type": "access_token"}})


@route("POST", "/api/repos/create")
def create_repository(request: Handler) -> None:
    name, may_write = request.user()
    body = request.body()
    if name is None:
        raise Refusal(401, "Invalid username or password.")
    if not may_write:
        raise Refusal(403, "this token may not create a repository")
    try:
        repo_id = request.hub.create(name, body)
    except Refusal as refusal:
        if refusal.status != 409:
            raise
        url = f"{request.hub.url}/{request.hub.name_of(name, body)}"
        request.answer_json({"error": refusal.message, "url": url}, 409)
        return
    request.answer_json({"name": repo_id, "id": repo_id, "url": f"{request.hub.url}/{repo_id}"})


@route("GET", f"{API}(?:/revision/{REVISION})?")
def repository_info(request: Handler, repo: str, revision: str | None = None) -> None:
    repository = request.readable(repo)
    commit = request.version(repository, revision or "main")
    siblings = [{"rfilename": path, "size": file.size, "blobId": file.oid} for path, file in commit.files.items()]
    name = "/".join(repo.split("/")[-2:])
    about = {"id": name, "author": repository.owner, "sha": commit.oid, "tags": []}
    request.answer_json({**about, "private": repository.private, "disabled": False, "siblings": siblings})


@route("GET", f"{API}/tree/{REVISION}(?:/(?P<folder>.+))?")
def list_tree(request: Handler, repo: str, revision: str, folder: str | None = None) -> None:
    commit = request.version(request.readable(repo), revision)
    inside = f"{folder}/" if folder else ""
    recursive = request.query.get("recursive", "false").lower() in ("true", "1")
    entries, folders = [], set()
    for path, file in sorted(commit.files.items()):
        if not path.startswith(inside):
            continue
        parts = path[len(inside) :].split("/")
        folders |= {inside + "/".join(parts[:depth]) for depth in range(1, len(parts) if recursive else 2)}
        if len(parts) == 1 or recursive:
            entries.append(entry_of(path, file))
    folders -= {each["path"] for each in entries}
    if folder and not entries:
        raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
    request.answer_json([entry_of_folder(path) for path in folders] + entries)


@route("POST", f"{API}/paths-info/{REVISION}")
def paths_info(request: Handler, repo: str, revision: str) -> None:
    commit = request.version(request.readable(repo), revision)
    entries = []
    for path in request.body()["paths"]:
        if path in commit.files:
            entries.append(entry_of(path, commit.files[path]))
        elif any(each.startswith(f"{path}/") for each in commit.files):
            entries.append(entry_of_folder(path))
    request.answer_json(entries)


def entry_of(path: str, file: File) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
    return entry | ({"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 134}} if file.lfs else {})


def entry_of_folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": git_oid(path.encode())}


@route("GET", f"{API}/refs")
def list_refs(request: Handler, repo: str) -> None:
    repository = request.readable(repo)
    request.answer_json(
        {
            kind: [{"name": name, "ref": f"refs/{ref}/{name}", "targetCommit": oid} for name, oid in refs.items()]
            for kind, ref, refs in (("branches", "heads", repository.branches), ("tags", "tags", repository.tags))
        }
        | {"converts": []}
    )


@route("POST", f"{API}/branch/{REVISION}")
def create_branch(request: Handler, repo: str, revision: str) -> None:
    repository, start = request.writable(repo), request.body().get("startingPoint", "main")
    with request.hub.lock:
        if revision in repository.branches:
            raise Refusal(409, f"Reference already exists: {revision}")
        repository.branches[revision] = request.version(repository, start).oid
    request.answer_json({})


@route("POST", f"{API}/tag/{REVISION}")
def create_tag(request: Handler, repo: str, revision: str) -> None:
    repository, tag = request.writable(repo), request.body()["tag"]
    with request.hub.lock:
        if tag in repository.tags:
            raise Refusal(409, f"Tag reference exists already: {tag}")
        repository.tags[tag] = request.version(repository, revision).oid
    request.answer_json({})


@route("POST", "/api/validate-yaml")
def validate_card(request: Handler) -> None:
    errors = [{"message": message} for message in card_errors(request.body()["content"])]
    request.answer_json({"errors": errors, "warnings": []}, 400 if errors else 200)


# --- uploads ---------------------------------------------------------------------------------------------------------


@route("POST", f"{API}/preupload/{REVISION}")
def preupload(request: Handler, repo: str, revision: str) -> None:
    commit = request.version(request.writable(repo), revision)
    answers = []
    for asked in request.body()["files"]:
        path, present = asked["path"], commit.files.get(asked["path"])
        large = is_large(path, asked["size"], b64decode(asked["sample"]))
        answer = {"path": path, "uploadMode": "lfs" if large else "regular"}
        answer["shouldIgnore"] = path in request.hub.gitignore
        if present:
            answer["oid"] = present.sha256 if present.lfs else present.oid
        answers.append(answer)
    request.answer_json({"files": answers})


@route("POST", rf"/{REPO}\.git/info/lfs/objects/batch")
def lfs_batch(request: Handler, repo: str) -> None:
    request.writable(repo)
    objects = []
    for asked in request.body()["objects"]:
        answer = {"oid": asked["oid"], "size": asked["size"]}
        if not (request.hub.blobs / asked["oid"]).is_file():
            answer["actions"] = upload_actions(request.hub, asked)
        objects.append(answer)
    request.answer_json({"transfer": "basic", "objects": objects})


def upload_actions(hub: Hub, asked: dict[str, Any]) -> dict[str, Any]:
    """Where to send a content: as one, or in parts where it is large."""
    name = secrets.token_hex(8)
    hub.tickets[name] = Ticket(asked["oid"], asked["size"])
    verify = {"href": f"{hub.storage_url}/verify"}
    if asked["size"] <= hub.part_size:
        return {"upload": {"href": f"{hub.storage_url}/{name}/1"}, "verify": verify}
    count = -(-asked["size"] // hub.part_size)
    parts = {str(number): f"{hub.storage_url}/{name}/{number}" for number in range(1, count + 1)}
    header = {"chunk_size": str(hub.part_size), **parts}
    return {"upload": {"href": f"{hub.storage_url}/{name}", "header": header}, "verify": verify}


@route("PUT", r"/storage/(?P<name>\w+)/(?P<number>\d+)")
def upload(request: Handler, name: str, number: str) -> None:
    hub, ticket = request.hub, request.hub.tickets[name]
    with hub.lock:
        hub.uploads += 1
        breaks = hub.break_uploads_from is not None and hub.uploads >= hub.break_uploads_from
    path = hub.arriving / secrets.token_hex(8)
    with path.open("wb") as file:
        for block in request.blocks():
            file.write(block)
            if breaks:
                hub.reached.set()
                if hub.break_how == "hang":
                    request.rfile.read()  # until the client goes away
                request.drop()
                return
    ticket.parts[int(number)] = path
    if ticket.size <= hub.part_size:
        hub.receive(ticket, [path])
    request.answer(200, {"ETag": f'"{name}-{number}"'})


@route("POST", r"/storage/(?P<name>[0-9a-f]{16})")
def complete(request: Handler, name: str) -> None:
    ticket, body = request.hub.tickets[name], request.body()
    numbers = [part["partNumber"] for part in body["parts"]]
    if numbers != sorted(ticket.parts) or any(
        part["etag"] != f'"{name}-{part["partNumber"]}"' for part in body["parts"]
    ):
        raise Refusal(400, "not the parts that were sent")
    request.hub.receive(ticket, [ticket.parts[number] for number in numbers])
    request.answer_json({})


@route("POST", "/storage/verify")
def verify(request: Handler) -> None:
    asked = request.body()
    if request.hub.large_file(asked["oid"]).size != asked["size"]:
        raise Refusal(400, "another size")
    request.answer_json({})


@route("POST", f"{API}/commit/{REVISION}")
def commit(request: Handler, repo: str, revision: str) -> None:
    hub, repository = request.hub, request.writable(repo)
    content = b""
    for block in request.blocks():
        content += block
        if hub.drop_commits.get(repo) == "before":
            request.drop()
            return
    made = hub.commit(repository, revision, [json.loads(line) for line in content.splitlines()])
    if hub.drop_commits.get(repo) == "after":
        request.drop()
        return
    request.answer_json({"success": True, "commitOid": made.oid, "commitUrl": f"{hub.url}/{repo}/commit/{made.oid}"})


# --- downloads -------------------------------------------------------------------------------------------------------


@route("GET|HEAD", f"/{REPO}/resolve/{REVISION}/(?P<path>.+)")
def resolve(request: Handler, repo: str, revision: str, path: str) -> None:
    commit = request.version(request.readable(repo), revision)
    headers = {"X-Repo-Commit": commit.oid}
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", headers)
    file = commit.files[path]
    if not file.lfs:
        request.answer_blob(file, {**headers, "ETag": f'"{file.oid}"'})
        return
    headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"'}
    request.answer(302, {**headers, "Location": f"{request.hub.storage_url}/{file.sha256}"})


@route("GET|HEAD", r"/storage/(?P<sha256>[0-9a-f]{64})")
def download(request: Handler, sha256: str) -> None:
    """As from the Hub's storage: a link that only who may read the repository was given."""
    request.answer_blob(request.hub.large_file(sha256), {"ETag": f'"{sha256}"'})


class HubServer(ThreadingHTTPServer):
    """The server of one `Hub`."""

    daemon_threads = True

    def __init__(self, hub: Hub):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub
        hub.url = f"http://127.0.0.1:{self.server_port}"
        hub.storage_url = f"http://localhost:{self.server_port}/storage"  # to clients another host, as the Hub's is

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve(root: Path, part_size: int = 64 * 2**20) -> Iterator[Hub]:
    """Run a Hub whose contents lie in a folder; its address is `Hub.url`."""
    hub = Hub(root, part_size)
    server = HubServer(hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment(hub: Hub, home: Path, token: str | None = WRITE_TOKEN) -> dict[str, str]:
    """That of a process of a user: this is the Hub, the caches are empty, and nothing reaches for another network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    hub_variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    hub_variables |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return {**kept, **hub_variables, **({"HF_TOKEN": token} if token else {}), "OMP_NUM_THREADS": "1"}


def connect(hub: Hub, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the HfApi that a module of this process uses be one of this Hub, though the tests are offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(module, "HfApi", partial(HfApi, endpoint=hub.url, token=WRITE_TOKEN))
