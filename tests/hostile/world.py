"""A small world to be attacked: home, project, registry and what is beside them.

Releases are forged: written as a registry's owner could write them, with every digest right, and
without the checks of `modpkg build`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modpkg.core.packs import parse_pack_header
from tests import tiny

Json = dict[str, Any]
LETTERS = [chr(ord("a") + n) for n in range(tiny.VOCAB - 1)]
TOKENIZER: Json = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "truncation": None,
    "padding": None,
    "model": {
        "type": "WordLevel",
        "vocab": {letter: n for n, letter in enumerate([*LETTERS, "?"])},
        "unk_token": "?",
    },
}
TOKENIZER_CONFIG: Json = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "?"}
GENERATION: Json = {"max_new_tokens": 2, "do_sample": False, "eos_token_id": 0}


def dumped(value: Any) -> bytes:
    """Return JSON of a value; bytes are JSON already."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


class World:
    """The folders below ``root/place``; ``root/kept`` is what they are put back to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place = root / "place"
        self.home = self.place / "home"
        self.project = self.place / "project"
        self.registry = self.place / "registry"
        self.other = self.place / "other"
        self.temporary = self.place / "temporary"

    def build(self) -> None:
        """Publish tiny, tiny-lora and talker, and write an app that may use them."""
        tiny.publish_talker(self.registry, self.root / "projects")
        shutil.rmtree(self.root / "projects")
        for folder in (self.home, self.project, self.other, self.temporary):
            folder.mkdir()
        (self.other / "valuable.txt").write_text("not of this project\n")
        self.write_app()

    def keep(self, name: str) -> None:
        """Remember the folders under a name."""
        shutil.copytree(self.place, self.root / "kept" / name, symlinks=True)

    def restore(self, name: str) -> None:
        """Put the folders back to what they were."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.place)
        shutil.copytree(self.root / "kept" / name, self.place, symlinks=True)

    def outside(self) -> dict[str, str]:
        """Return what lies beside home, project and registry, with the content of files."""
        own = {self.home, self.project, self.registry, self.temporary}
        found = {}
        for folder, folders, files in os.walk(self.place):
            here = Path(folder)
            folders[:] = [name for name in folders if here / name not in own]
            for name in (*folders, *files):
                path = here / name
                if path.is_symlink() or not path.is_file():
                    found[str(path)] = str(path.lstat().st_mode)
                else:
                    found[str(path)] = path.read_bytes().hex()
        return found

    # What attackers write -------------------------------------------------------------------

    def write_app(self, more: str = "", dependencies: str = "") -> None:
        """Write the app's manifest."""
        text = f'[app]\nname = "app"\n[dependencies]\n{dependencies}{more}'
        (self.project / "modpkg.toml").write_text(text)

    def blob(self, data: bytes) -> str:
        """Add a blob to the registry, and return its digest."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.registry / "blobs" / "sha256" / digest[:2] / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(data)
        return f"sha256:{digest}"

    def forge(
        self,
        name: str,
        version: str = "1.0",
        *,
        files: Mapping[str, bytes] | None = None,
        weights: bytes | None = None,
        record: Json | None = None,
        line: Json | None = None,
        raw: bytes | None = None,
    ) -> None:
        """Add a release of kind ``base`` to the registry, unchecked.

        Args:
            name: Of the module.
            version: Of the release.
            files: Its files, by path.
            weights: A safetensors file: its pack.
            record: What the release record has instead.
            line: What the index line has instead.
            raw: The release record itself, as it is.
        """
        common = {"name": name, "version": version, "kind": "base", "requires": [], "extras": {}}
        module = {"kind": "base", "license": "MIT", "name": name, "version": version}
        release: Json = {
            **common,
            "spec": 1,
            "license": "MIT",
            "summary": "",
            "provides": None,
            "expects": {},
            "manifest": {"module": module, "task": {"kind": "text-generation"}},
            "files": {
                path: {"digest": self.blob(data), "size": len(data)}
                for path, data in (files or {}).items()
            },
            "packs": {},
            "tensors": {},
            "provenance": {"built_with": "modpkg 0.1.0"},
        }
        if weights is not None:
            release["packs"], release["tensors"] = self.packed(weights)
        release |= record or {}
        digest = self.blob(dumped(release) if raw is None else raw)
        indexed: Json = {
            **{key: release.get(key, value) for key, value in common.items()},
            "spec": 1,
            "release": digest,
            "size": 100,
            "published": "2026-01-01T00:00:00Z",
            "yanked": None,
            "provides": release["provides"],
            "expects": release["expects"],
        }
        self.index(name, dumped(indexed | (line or {})) + b"\n")

    def index(self, name: str, data: bytes) -> None:
        """Add lines to an index file."""
        with open(self.registry / "index" / f"{name}.jsonl", "ab") as file:
            file.write(data)

    def packed(self, weights: bytes) -> tuple[Json, Json]:
        """Add a pack, and return what a record says of it and of its tensors."""
        length = int.from_bytes(weights[:8], "little")
        places = parse_pack_header(weights[8 : 8 + length], len(weights) - 8 - length, "a pack")
        pack = self.blob(weights)
        tensors = {}
        for name, place in places.items():
            data = weights[place.offset : place.offset + place.length]
            tensors[name] = {
                "dtype": place.dtype,
                "shape": list(place.shape),
                "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
                "pack": pack,
                "offset": place.offset,
                "length": place.length,
            }
        return {pack: len(weights)}, tensors

    def forge_model(
        self, name: str = "evil", *, task: str = "text-generation", **files: Any
    ) -> None:
        """Forge a base that runs, with files of it replaced; the keys have __ for a full stop."""
        given = {
            "config.json": dumped(tiny.CONFIG),
            "generation_config.json": dumped(GENERATION),
            "tokenizer.json": dumped(TOKENIZER),
            "tokenizer_config.json": dumped(TOKENIZER_CONFIG),
        } | {key.replace("__", "."): dumped(value) for key, value in files.items()}
        module = {"kind": "base", "license": "MIT", "name": name, "version": "1.0"}
        manifest = {"module": module, "task": {"kind": task}}
        record = {"manifest": manifest}
        self.forge(name, files=given, weights=tiny.base_weights(), record=record)
