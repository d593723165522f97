"""What other tools transfer and store when a model's files change.

Each is given the folders of a history in turn, and reports what it had to move and keeps in all for
a user who has every earlier step. All are given their best case: whatever they have seen once,
under any name, costs nothing again, and neither lists of chunks nor requests are counted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstandard
from fastcdc.fastcdc_cy import fastcdc_cy  # the compiled one, or an ImportError

MEAN_CHUNK = 1 << 16
SHORTEST_CHUNK = MEAN_CHUNK // 8
LONGEST_CHUNK = MEAN_CHUNK * 2
"""As Hugging Face's Xet has them: https://huggingface.co/docs/xet/chunking."""
ZSTD_LEVEL = 3


def content(folder: Path) -> Iterator[Path]:
    """Yield the files of a release that any tool would transfer: weights, config and tokenizer."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in {"modpkg.toml", "made.json"}:
            yield path


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class WholeFiles:
    """A hub: every file that changed, whole."""

    title = "whole files"

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self.disk = 0

    def add(self, module: str, folder: Path) -> int:
        """Return the bytes that a release moves."""
        moved = 0
        for path in content(folder):
            digest = hashlib.sha256(path.read_bytes()).digest()
            if digest not in self._seen:
                self._seen.add(digest)
                moved += path.stat().st_size
        self.disk += moved
        return moved


class Chunks:
    """Content-defined chunks, each transferred and stored once; `packed` has them with zstd."""

    title = "64 KiB chunks"

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self.disk = 0
        self.packed_disk = 0
        self.count = 0
        self.packed = 0
        """Bytes that the last release transferred with each new chunk compressed by zstd."""

    def add(self, module: str, folder: Path) -> int:
        """Return the bytes that a release moves."""
        moved = self.packed = 0
        for path in content(folder):
            data = memoryview(path.read_bytes())
            for cut in fastcdc_cy(data, SHORTEST_CHUNK, MEAN_CHUNK, LONGEST_CHUNK):
                chunk = data[cut.offset : cut.offset + cut.length]
                digest = hashlib.sha256(chunk).digest()
                if digest not in self._seen:
                    self._seen.add(digest)
                    moved += len(chunk)
                    self.packed += min(len(chunk), *map(_zstd, (chunk, _grouped(chunk))))
        self.count = len(self._seen)
        self.disk += moved
        self.packed_disk += self.packed
        return moved


def _zstd(data: bytes | memoryview) -> int:
    return len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data))


def _grouped(chunk: memoryview) -> bytes:
    """Return a chunk's even bytes, then its odd ones, as Xet groups bytes before it compresses."""
    even = np.frombuffer(chunk[: len(chunk) & ~1], np.uint8).reshape(-1, 2)
    return even.T.tobytes() + bytes(chunk[len(chunk) & ~1 :])


class GitLfs:
    """git-lfs itself: one repository, a commit for each release, pushed, and pulled by a clone."""

    title = "git-lfs"

    def __init__(self, work: Path) -> None:
        self._home = work
        self._server, self._author, self._user = (
            work / n for n in ("server.git", "author", "user")
        )
        work.mkdir(parents=True)
        self._git(work, "lfs", "install", "--skip-repo")
        self._git(work, "init", "--quiet", "--bare", "--initial-branch=main", self._server)
        self._git(work, "clone", "--quiet", self._server, self._author)
        self._git(self._author, "lfs", "track", "*.safetensors", "tokenizer.json")
        self.disk = 0
        self._commits: list[str] = []

    def commit(self, module: str, folder: Path) -> int:
        """Commit a release and pull it; return the bytes by which a user's clone grows."""
        moved = self.add(module, folder)
        self._commits.append(self._git(self._author, "rev-parse", "HEAD").strip())
        return moved

    def check_out(self, number: int) -> None:
        """Switch the user's clone to a commit whose objects it has."""
        self._git(self._user, "checkout", "--quiet", "--force", self._commits[number])

    def clone(self, number: int) -> None:
        """Get one commit alone into a new clone, which is removed again."""
        fresh = self._home / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        self._git(self._home, "clone", "--quiet", "--no-checkout", self._server, fresh)
        self._git(fresh, "checkout", "--quiet", self._commits[number])
        shutil.rmtree(fresh)

    def add(self, module: str, folder: Path) -> int:
        """Return the growth of a user's clone in bytes, without its working files."""
        target = self._author / module
        target.mkdir(exist_ok=True)
        for path in content(folder):
            shutil.copyfile(path, target / path.name)
        self._git(self._author, "add", "--all")
        self._git(self._author, "commit", "--quiet", "--message", f"{module} {folder.name}")
        self._git(self._author, "push", "--quiet", "origin", "HEAD:main")
        if not self._user.exists():
            self._git(self._home, "clone", "--quiet", self._server, self._user)
        else:
            self._git(self._user, "pull", "--quiet", "origin", "main")
        before, self.disk = self.disk, bytes_below(self._user / ".git")
        return self.disk - before

    def _git(self, folder: Path, *arguments: str | Path) -> str:
        environment = os.environ | {"HOME": str(self._home), "GIT_CONFIG_NOSYSTEM": "1"}
        who = ["-c", "user.name=history", "-c", "user.email=history@models.example"]
        done = subprocess.run(
            ["git", *who, *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"git {arguments}: {done.stderr}")
        return done.stdout
