"""Locking and composing from a registry: the same from all, or the bytes were not the same."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, structs

from modpkg.core.digests import digest_bytes
from modpkg.core.errors import NotFound
from modpkg.core.filenames import LOCK_NAME
from modpkg.environment.install import install
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import project_in
from modpkg.environment.workspace import RegistryOptions, Workspace
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import Lock, format_lock, parse_lock
from modpkg.store.store import Store
from registry_spec.publishers import Publisher
from registry_spec.rules import Rules, RuleUntested, require
from registry_spec.samples import ASSEMBLY, Samples

_APP = f"""\
[app]
name = "conformance"
[dependencies]
{ASSEMBLY} = "*"
"""


class Assembled(Struct, frozen=True):
    """What was locked and composed of the suite's assembly."""

    lock: str
    """Digest of the lock file, without the names and addresses of registries."""
    composed: str
    """Digest of the composed weights."""


def assembly_rules(
    rules: Rules, address: str, publisher: Publisher | None, samples: Samples, work: Path
) -> Assembled | None:
    """Publish, lock, install and compose the assembly; return the digests, None if that failed.

    Without a ``publisher``, the registry has to have it, or the rules are untested.
    """
    found: Assembled | None = None
    with rules.rule("lock.md", "a model can be locked, installed and composed"):
        wanted = samples.assembly()
        if publisher is not None:
            for sample in wanted:
                publisher.publish(sample)
        registry = Registry(address)
        for sample in wanted:
            line = sample.line
            try:
                there = registry.line(line.name, line.version)
            except NotFound:
                raise RuleUntested(f"it has no {line.name} {line.version}") from None
            require(there.release == line.release, f"{line.name} {line.version} is another one")
        found = _installed(address, work)
    return found  # noqa: RET504 (a broken rule ends its block before)


def _installed(address: str, work: Path) -> Assembled:
    """Install the assembly into a folder, with a store of its own."""
    folder = work / "app"
    folder.mkdir()
    (folder / "modpkg.toml").write_text(_APP)
    store = Store(work / "store")
    options = RegistryOptions(address)
    workspace = Workspace(project_in(folder), options=options, store=store, device="cpu")
    install(workspace, InstallRequest())
    lock = parse_lock((folder / LOCK_NAME).read_text(), folder / LOCK_NAME)
    (composed,) = lock.composed
    return Assembled(lock=_digest(lock), composed=composed.result)


def _digest(lock: Lock) -> str:
    """Return the digest of a lock, as from a registry without name and address."""
    modules = [structs.replace(module, registry="", address="") for module in lock.module]
    return digest_bytes(format_lock(structs.replace(lock, module=modules)).encode())
