"""A small hub of models on this machine, for `huggingface_hub` itself to speak to.

It follows these pages:

- https://huggingface.co/docs/hub/api (repo info with ``?blobs=true``, tree, refs, create, whoami,
  ``preupload`` and ``commit`` of the OpenAPI description that the page leads to)
- https://huggingface.co/docs/huggingface_hub/package_reference/file_download (resolve: ``ETag``,
  ``X-Linked-ETag``, ``X-Linked-Size``, ``X-Repo-Commit``, a redirect to where large files lie)
- https://huggingface.co/docs/huggingface_hub/package_reference/hf_api (``parent_commit``: 412)
- https://huggingface.co/docs/hub/models-gated and .../package_reference/utilities
  (``X-Error-Code``: GatedRepo, RepoNotFound, RevisionNotFound, EntryNotFound)
- https://huggingface.co/docs/hub/rate-limits (429, ``Retry-After``, ``RateLimit``)
- https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md (LFS batch, upload, verify)

Large files lie on another origin, which refuses credentials: nobody may send it a token.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

LARGE = 2_000
"""Bytes from which a file is a large one; on the real hub it is ten million."""
TOKEN = "hf_thisIsATokenForTests0123456789"
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]*)")

_OF_A_MODEL = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(\w+)(?:/([^/]+)(/.*)?)?)?")


def blob_id(data: bytes) -> str:
    """Return what git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Commit:
    sha: str
    parent: str | None
    files: dict[str, bytes]
    title: str


@dataclass
class Repository:
    """A repository: its commits by their ids, and its branches."""

    name: str
    gated: bool = False
    """Whether reading needs a token that was granted access."""
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], branch: str = "main", title: str = "x") -> str:
        """Add a commit in which a branch has exactly these files; return its id."""
        parent = self.branches.get(branch)
        text = f"{self.name} {len(self.commits)} {parent} {sorted(files)}"
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, dict(files), title)
        self.branches[branch] = sha
        return sha

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision, revision))

    @property
    def head(self) -> Commit:
        return self.commits[self.branches["main"]]


@dataclass
class Hub:
    """The state of a hub, and what it was asked."""

    url: str = ""
    storage_url: str = ""
    """Where large files lie."""
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    """Large files by their sha256."""
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of each request, on both origins."""
    sent: int = 0
    """Bytes of bodies that were sent."""
    received: int = 0
    fault: Callable[[Handler], bool] = lambda handler: False
    """Called with each request; True when it has answered."""
    granted: bool = True
    """Whether the token's user was granted access to gated repositories."""
    lock: Any = field(default_factory=threading.RLock)

    def repository(
        self, name: str, files: Mapping[str, bytes] | None = None, **options: Any
    ) -> Repository:
        """Make a repository, with one commit if there are files."""
        made = Repository(name, **options)
        made.commit(files or {".gitattributes": b"*.bin filter=lfs\n"})
        self.repositories[name] = made
        return made

    def paths(self, method: str = "") -> list[str]:
        return [path for seen, path, _ in self.seen if seen == (method or seen)]


def info_of(repository: Repository, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    """Return what the hub tells of a repository."""
    siblings: list[dict[str, Any]] = []
    for path, data in sorted(commit.files.items()):
        entry: dict[str, Any] = {"rfilename": path}
        if blobs:
            entry |= {"size": len(data), "blobId": blob_id(data)}
            if len(data) >= LARGE:
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 130}
        siblings.append(entry)
    name = repository.name
    return {
        "_id": "1",
        "id": name,
        "modelId": name,
        "author": name.partition("/")[0],
        "sha": commit.sha,
        "lastModified": "2026-01-01T00:00:00.000Z",
        "createdAt": "2026-01-01T00:00:00.000Z",
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": 1,
        "likes": 0,
        "tags": ["safetensors"],
        "siblings": siblings,
    }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any
    body = b""

    @property
    def hub(self) -> Hub:
        state: Hub = self.server.state
        return state

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes | Any = b"", **headers: str) -> None:
        """Answer; an underscore in a header's name is a hyphen, and what is no bytes is JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        if not isinstance(body, bytes):
            self.send_header("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
            self.hub.sent += len(data)

    def fail(self, status: int, code: str, message: str) -> None:
        self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    def handle_one(self) -> None:
        self.body = self._received()
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.hub.lock:
            self.hub.seen.append((self.command, self.path, headers))
        with suppress(BrokenPipeError, ConnectionResetError):
            if not self.hub.fault(self):
                self.give()

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def _received(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        else:
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            data = b"".join(parts)
        self.hub.received += len(data)
        return data

    def give(self) -> None:
        raise NotImplementedError

    def file(self, data: bytes, **headers: str) -> None:
        """Answer with a file, or the part of it that was asked for."""
        if asked := _RANGE.fullmatch(self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            if first > last:
                self.answer(416, Content_Range=f"bytes */{len(data)}")
                return
            span = f"bytes {first}-{last}/{len(data)}"
            self.answer(206, data[first : last + 1], Content_Range=span, **headers)
        elif "gzip" in self.headers.get("Accept-Encoding", "") and self.command == "GET":
            self.answer(200, gzip.compress(data), Content_Encoding="gzip", **headers)
        else:
            self.answer(200, data, **headers)


class StorageHandler(Handler):
    """Where large files lie: it knows signed addresses, and refuses a token."""

    def give(self) -> None:
        oid = urlsplit(self.path).path.strip("/")
        if self.headers.get("Authorization"):
            self.answer(400, b"only one authentication is allowed")
        elif self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                self.answer(400, b"BadDigest")
                return
            self.hub.uploaded[oid] = self.body
            self.answer(200, ETag=f'"{oid}"')
        elif (data := self.hub.uploaded.get(oid)) is None:
            self.answer(404)
        else:
            self.file(data, ETag=f'"{oid}"', Accept_Ranges="bytes")


class HubHandler(Handler):
    """The hub itself."""

    def give(self) -> None:
        parts = urlsplit(self.path)
        path, query = parts.path, parse_qs(parts.query)
        if path == "/api/repos/create":
            self._create()
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif path == "/api/whoami-v2":
            known = self._token() == TOKEN
            self.answer(200 if known else 401, {"name": "tester", "type": "user"})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            if self._repository(found[1], write=True):
                self._batch()
        elif path.startswith("/lfs-verify/"):
            self.answer(200, {})
        elif found := re.fullmatch(
            r"/api/models/([^/]+/[^/]+)(?:/(\w+)(?:/([^/]+)(/.*)?)?)?", path
        ):
            name, action, revision, rest = found.groups()
            self._api(name, action or "revision", unquote(revision or "main"), rest, query)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], unquote(found[2]), unquote(found[3]))
        else:
            self.answer(404, {"error": "no such page"})

    def _token(self) -> str | None:
        header = self.headers.get("Authorization", "")
        return header.removeprefix("Bearer ") if header else None

    def _repository(self, name: str, *, write: bool = False) -> Repository | None:
        """Return a repository; None when the refusal was answered."""
        repository, token = self.hub.repositories.get(name), self._token()
        if token is not None and token != TOKEN:
            self.fail(401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and token is None):
            self.fail(401 if token is None else 404, "RepoNotFound", "Repository not found")
        elif write and token is None:
            self.fail(401, "", "Invalid username or password.")
        else:
            return repository
        return None

    def _readable(self, repository: Repository) -> bool:
        """Return whether files may be read, of which a gated repository has conditions."""
        if repository.gated and self._token() is None:
            self.fail(401, "GatedRepo", f"Access to model {repository.name} is restricted.")
            return False
        if repository.gated and not self.hub.granted:
            self.fail(403, "GatedRepo", f"Access to model {repository.name} is restricted.")
            return False
        return True

    def _api(
        self,
        name: str,
        action: str,
        revision: str,
        rest: str | None,
        query: Mapping[str, list[str]],
    ) -> None:
        repository = self._repository(name, write=action in ("preupload", "commit"))
        if repository is None:
            return
        if action == "refs":
            branches = [
                {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": sha}
                for branch, sha in repository.branches.items()
            ]
            self.answer(200, {"branches": branches, "converts": [], "tags": []})
            return
        commit = repository.at(revision)
        if commit is None:
            self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif action == "preupload":
            self._preupload(commit)
        elif action == "commit":
            self._commit(repository, revision)
        elif action == "tree":
            self._tree(commit, unquote(rest or "").strip("/"), query)
        elif action == "revision":
            blobs = query.get("blobs", ["false"])[0].lower() in ("true", "1")
            self.answer(200, info_of(repository, commit, blobs=blobs))
        else:
            self.answer(404, {"error": "no such page"})

    def _tree(self, commit: Commit, folder: str, query: Mapping[str, list[str]]) -> None:
        """Answer with a page of the files below a folder."""
        inside = f"{folder}/" if folder else ""
        paths = sorted(path for path in commit.files if path.startswith(inside))
        if query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            paths = [path for path in paths if "/" not in path[len(inside) :]]
        start, size = int(query.get("cursor", ["0"])[0]), int(query.get("limit", ["1000"])[0])
        entries: list[dict[str, Any]] = []
        for path in paths[start : start + size]:
            data = commit.files[path]
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
            entry["oid"] = blob_id(data)
            if len(data) >= LARGE:
                oid = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 130}
            entries.append(entry)
        more = {}
        if start + size < len(paths):
            page = urlsplit(self.path).path
            recursive = query.get("recursive", ["false"])[0]
            after = f"{self.hub.url}{page}?recursive={recursive}&cursor={start + size}&limit={size}"
            more["Link"] = f'<{after}>; rel="next"'
        self.answer(200, entries, **more)

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository is None or not self._readable(repository):
            return
        commit = repository.at(revision)
        if commit is None:
            self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        data = commit.files.get(path)
        if data is None:
            self.fail(404, "EntryNotFound", "Entry not found")
            return
        if len(data) >= LARGE:
            oid = hashlib.sha256(data).hexdigest()
            self.hub.uploaded.setdefault(oid, data)
            self.answer(
                302,
                b"Found",
                Location=f"{self.hub.storage_url}/{oid}?signature=1&name={quote(path)}",
                X_Repo_Commit=commit.sha,
                X_Linked_ETag=f'"{oid}"',
                X_Linked_Size=str(len(data)),
                ETag=f'"{blob_id(data)}"',
            )
            return
        etag = f'"{blob_id(data)}"'
        if self.headers.get("If-None-Match") == etag:
            self.answer(304, ETag=etag, X_Repo_Commit=commit.sha)
            return
        self.file(data, ETag=etag, X_Repo_Commit=commit.sha, Accept_Ranges="bytes")

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        if self._token() != TOKEN:
            self.fail(401, "", "Invalid username or password.")
        elif name in self.hub.repositories:
            self.answer(409, {"error": "You already created this model repo", "url": name})
        else:
            self.hub.repository(name, private=bool(asked.get("private")))
            self.answer(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def _preupload(self, commit: Commit) -> None:
        files = []
        for entry in json.loads(self.body)["files"]:
            was = commit.files.get(entry["path"])
            large = entry["size"] >= LARGE
            oid = None
            if was is not None:
                oid = hashlib.sha256(was).hexdigest() if len(was) >= LARGE else blob_id(was)
            mode = "lfs" if large else "regular"
            files.append(
                {"path": entry["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}
            )
        self.answer(200, {"files": files})

    def _batch(self) -> None:
        objects = []
        for entry in json.loads(self.body)["objects"]:
            oid, known = entry["oid"], self.hub.uploaded.get(entry["oid"])
            made = {"oid": oid, "size": entry["size"]}
            if known is None or len(known) != entry["size"]:
                made["actions"] = {
                    "upload": {"href": f"{self.hub.storage_url}/{oid}?signature=1", "header": {}},
                    "verify": {"href": f"{self.hub.url}/lfs-verify/{oid}", "header": {}},
                }
            objects.append(made)
        self.answer(200, {"transfer": "basic", "objects": objects, "hash_algo": "sha256"})

    def _commit(self, repository: Repository, branch: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        with self.hub.lock:
            head = repository.commits[repository.branches[branch]]
            parent = header.get("parentCommit")
            if parent is not None and parent != head.sha:
                message = "A commit has happened since. Please refresh and try again."
                self.answer(412, {"error": message}, X_Error_Message=message)
                return
            files = dict(head.files)
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    if value["oid"] not in self.hub.uploaded:
                        self.answer(422, {"error": f"missing LFS file: {value['oid']}"})
                        return
                    files[value["path"]] = self.hub.uploaded[value["oid"]]
                elif line["key"] == "deletedFile":
                    files.pop(value["path"], None)
            sha = repository.commit(files, branch, header["summary"])
        made = {"success": True, "commitOid": sha, "hookOutput": ""}
        self.answer(200, {**made, "commitUrl": f"{self.hub.url}/{repository.name}/commit/{sha}"})


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def __init__(self, handler: type[Handler], state: Hub) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.state = state

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Run a hub, and beside it the storage of its large files, each at an origin of its own."""
    state = Hub()
    servers = [_Server(HubHandler, state), _Server(StorageHandler, state)]
    state.url, state.storage_url = (server.url for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield state
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
