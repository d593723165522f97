"""A commit of a hub as the release of a module: fetched, imported and built by reference."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from modpkg.community.modules.memory import memory_of
from modpkg.community.modules.project import module_table
from modpkg.core.digests import Digest, parse_digest
from modpkg.core.elsewhere import elsewhere_path, read_places
from modpkg.core.errors import ModpkgError
from modpkg.core.filenames import ADAPTER_CONFIG, MANIFEST, REGISTRY_INFO
from modpkg.core.files import write_atomically
from modpkg.core.hub_address import HubAddress, parse_hub_address
from modpkg.core.jsonfile import read_json
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.progress import Progress
from modpkg.core.records import SPEC, RegistryInfo, ReleaseRecord, canonical_json
from modpkg.core.regular_file import open_file, read_file
from modpkg.core.tree import BlobTree
from modpkg.environment.hub_release import NAME_CHARACTERS, Description, HubBase
from modpkg.interop.hf import import_hf
from modpkg.interop.hub_download import Downloaded, downloaded, named_by
from modpkg.interop.model_card import license_of, read_card
from modpkg.interop.peft import import_peft
from modpkg.manifest.cutoff import moment_text
from modpkg.manifest.read import read_manifest
from modpkg.registry.base import find_base
from modpkg.registry.hub_listing import HubFile
from modpkg.registry.index import format_index
from modpkg.release.build import build
from modpkg.release.build_stamps import STAMPS

_BUILT_WITH = "modpkg, of a hub"
"""Without modpkg's version, which would give the same commit another release in each."""


@contextlib.contextmanager
def checked_out(address: HubAddress, progress: Progress) -> Iterator[HubCheckout]:
    """Fetch the files of a commit, and yield them; see `downloaded`."""
    with downloaded(address, adapter=None, progress=progress) as got:
        yield HubCheckout(got, progress)


class HubCheckout:
    """The files of a commit."""

    def __init__(self, got: Downloaded, progress: Progress) -> None:
        self._got = got
        self._progress = progress
        base = ""
        if got.is_adapter:
            base = _repository(read_json(got.folder / ADAPTER_CONFIG))
        self.description = Description(got.is_adapter, base)
        self.listing = got.listing.digest
        self.fetched = got.fetched

    def build(self, name: str, version: str, out: Path, base: HubBase | None) -> None:
        """Write the registry of the one release that is made of them into a new folder.

        It is a function of the commit, the name and the base, in any version of modpkg that
        imports alike.

        Raises:
            ConversionError: It cannot be imported.
            ReleaseError, ComposeError, PackError: Its weights are damaged, or do not fit.
        """
        self._progress.stage(f"Importing {name}")
        project = temporary_sibling(out)
        try:
            with named_by(self._got.address, self._got.folder):
                warnings = self._import(project, name, version, base)
            manifest = read_manifest(project / MANIFEST)
            self._progress.stage(f"Building {name}")
            found = None
            if base is not None:
                found = find_base(manifest, {base.line.name: base.registry})
            built = build(
                manifest,
                module_table(manifest),
                out,
                base=found,
                deltas=False,
                memory=memory_of,
                built_with=_BUILT_WITH,
            )
        finally:
            discard(project)
        for warning in (*warnings, *self._got.left):
            self._progress.warn(f"{name}: {warning}")
        info = RegistryInfo(spec=SPEC, name=self._got.address.repository[:NAME_CHARACTERS])
        write_atomically(out / REGISTRY_INFO, canonical_json(info) + b"\n")
        published = moment_text(self._got.listing.modified)
        line = msgspec.structs.replace(built.line, published=published)
        write_atomically(out / "index" / f"{name}.jsonl", format_index([line]))
        (out / STAMPS).unlink(missing_ok=True)
        self._check_places(out, built.record)

    def _import(self, project: Path, name: str, version: str, base: HubBase | None) -> list[str]:
        source, address = self._got.source, self._got.address
        license, unknown = license_of(read_card(self._got.folder), None)
        # What could be done about it, in a manifest of its own, nobody can do here.
        warnings = [text.partition(";")[0] for text in unknown]
        if base is None:
            return warnings + import_hf(
                source, project, name, version, license=license, imported_from=address
            )
        return warnings + import_peft(
            source,
            project,
            name,
            version,
            base=str(base) if base.registry.stands_for else base.line.name,
            against=str(base),
            license=license,
            imported_from=address,
        )

    def _check_places(self, out: Path, record: ReleaseRecord) -> None:
        """Remove the places of what the import has changed: the hub has other bytes there."""
        tree = BlobTree(out)
        files = {file.path: file for file in self._got.listing.files}
        for digest in {*record.packs, *(entry.digest for entry in record.files.values())}:
            blob = parse_digest(digest)
            path = out / elsewhere_path(blob)
            if not path.exists():
                continue
            (place,) = read_places(read_file(path), str(path))
            file = files.get(parse_hub_address(place, file=True).file or "")
            if file is None or not _is_same(file, blob, tree.path(blob)):
                path.unlink()


def _is_same(file: HubFile, digest: Digest, path: Path) -> bool:
    """Return whether a blob is a file as a hub lists it."""
    if file.is_large:
        return digest == f"sha256:{file.digest}"
    state = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with open_file(path) as opened:
        while chunk := opened.read(1 << 20):
            state.update(chunk)
    return state.hexdigest() == file.digest


def _repository(config: dict[str, object]) -> str:
    """Return the repository that an adapter's config names as its base; "" for none."""
    named = config.get("base_model_name_or_path")
    try:
        return parse_hub_address(f"hf://{named}").repository if isinstance(named, str) else ""
    except ModpkgError:
        return ""  # a folder of whoever trained it
