"""Running the vectors through the package's readers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modpkg.core.digests import parse_digest
from modpkg.core.interface import drift_of, unfit_reason
from modpkg.core.names import module_name, parse_requirement, parse_version
from modpkg.core.packs import read_pack_header
from modpkg.core.records import (
    Expects,
    IndexLine,
    Provides,
    ReleaseRecord,
    TensorEntry,
    canonical_json,
    decode_record,
)
from modpkg.core.release_path import safe_path
from modpkg.deltas import decode
from modpkg.manifest.normal import normal_form
from modpkg.manifest.read import parse_manifest
from modpkg.registry.index import parse_index
from modpkg.registry.reader import Registry
from modpkg.release.verify import check_record
from modpkg.resolve.lock import parse_lock
from modpkg.trust.log.log_checkpoint import parse_checkpoint


def _pack(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pack"
        path.write_bytes(bytes.fromhex(text))
        read_pack_header(path)


def _registry(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "registry.json").write_text(text, "utf-8")
        _ = Registry(folder).info


def _index_line(text: str) -> None:
    """Parse an index line; a reader warns where this raises."""
    data = text.encode()
    warnings: list[str] = []
    if parse_index(data, "m", "here", warnings.append) or not warnings:
        return
    line = decode_record(data, IndexLine, "the line")
    parse_version(line.version)
    module_name(line.name)


def _record(value: Any) -> None:
    check_record(decode_record(canonical_json(value), ReleaseRecord, "the record"))


def decoded(case: dict[str, Any]) -> bytes:
    """Return the tensor that a payload decodes to."""
    base = case["base"] and memoryview(bytes.fromhex(case["base"]))
    out = bytearray(case["length"])
    payload = bytes.fromhex(case["payload"])
    decode(case["method"], payload, base, memoryview(out), case["dtype"], "the tensor")
    return bytes(out)


def compose(written: str) -> Any:
    """Return the normal form of a ``[compose]`` table, in a model that needs m, one and two."""
    module = '[module]\nname = "x"\nversion = "1"\nkind = "model"\nlicense = "MIT"\n'
    needs = "[dependencies]\n" + "".join(f'{name} = "*"\n' for name in ("m", "one", "two"))
    text = f"{module}{needs}[compose]\n{written}\n"
    return normal_form(parse_manifest(text, Path("modpkg.toml")))["compose"]


def _checkpoint(text: str) -> None:
    parse_checkpoint(text.encode(), "here")


JUDGES: dict[str, Callable[[Any], object]] = {
    "checkpoints": _checkpoint,
    "names": module_name,
    "versions": parse_version,
    "requirements": parse_requirement,
    "digests": parse_digest,
    "paths": safe_path,
    "packs": _pack,
    "registries": _registry,
    "index-lines": _index_line,
    "indexes": lambda text: parse_index(text.encode(), "m", "here"),
    "records": _record,
    "payloads": decoded,
    "compose": compose,
    "locks": lambda text: parse_lock(text, Path("modpkg.lock")),
}
"""By section of invalid.json, the function that reads an input; each raises a `ModpkgError`."""


def fit(case: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a case of fits.json: its fit, and the changes or the reason."""
    expects = decode_record(canonical_json(case["expects"]), Expects, "the case")
    provides = decode_record(canonical_json(case["provides"]), Provides, "the case")
    reason = unfit_reason(expects, provides)
    if reason is not None:
        return {"fit": "unfit", "reason": reason}
    tensors = {
        name: TensorEntry(
            dtype=kind.dtype,
            shape=kind.shape,
            digest=case["digests"][name],
            pack="sha256:" + "0" * 64,
            offset=0,
            length=0,
        )
        for name, kind in provides.tensors.items()
    }
    drift = drift_of(expects, provides, tensors)
    if drift.exact:
        return {"fit": "exact"}
    return {"fit": "drifted", "changed": list(drift.changed), "ports": list(drift.ports)}
