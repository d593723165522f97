"""Who publishes for the conformance suite: modpkg itself, where a registry is a place."""

from __future__ import annotations

import subprocess
import sys
from typing import Protocol

from modpkg.core.records import IndexLine
from modpkg.registry.opening import open_place
from modpkg.registry.place import Place
from modpkg.registry.writer import RegistryWriter
from registry_spec.rules import RuleBroken
from registry_spec.samples import Sample

_PATIENCE = 120


class Publisher(Protocol):
    """Publishes to one registry; any number of threads may."""

    def publish(self, sample: Sample) -> IndexLine:
        """Publish a release.

        Raises:
            PublishError: The version is published with another release digest.
        """
        ...

    def yank(self, name: str, version: str, reason: str | None) -> None:
        """Yank a release, or undo that with ``reason=None``."""
        ...

    def interrupted(self, sample: Sample, step: int) -> bool:
        """Publish a release, and be killed before a step; return whether it was done before."""
        ...


class PlacePublisher:
    """Publishes to a folder, a bucket or a repository of a hub."""

    def __init__(self, address: str) -> None:
        self._address = address

    def place(self) -> Place:
        """Return the place, opened for one publisher."""
        return open_place(self._address)

    def publish(self, sample: Sample) -> IndexLine:
        return RegistryWriter(self.place(), "conformance").publish(sample.built(), sample.line)

    def yank(self, name: str, version: str, reason: str | None) -> None:
        RegistryWriter(self.place()).yank(name, version, reason)

    def interrupted(self, sample: Sample, step: int) -> bool:
        command = [sys.executable, "-m", "registry_spec.interrupted_publisher"]
        command += [self._address, str(sample.tree), str(step)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
        if done.returncode not in (0, KILLED):
            raise RuleBroken(f"a publisher failed: {done.stderr.strip()[-500:]}")
        return done.returncode == 0


KILLED = 86
"""The status of a publisher that ended in the middle."""
