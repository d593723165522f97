"""Programs of the packages that `install` has unpacked, or of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tests.registry.places.install import which
from tests.registry.places.store import INSTALLED

_FOLDERS = ("usr/lib/postgresql/*/bin", "usr/lib/chromium", "usr/sbin", "usr/bin")


class Program(NamedTuple):
    """A program that is not pip's, and how it is started."""

    path: str
    environment: dict[str, str]
    """The variables that it needs where it is not installed but unpacked."""


def find_program(name: str, group: str) -> Program:
    """Return a program of one of `install.DEBIAN`'s groups: the unpacked one, if there is one.

    Raises:
        RuntimeError: There is none.
    """
    root = INSTALLED / group
    for path in (path for folder in _FOLDERS for path in root.glob(f"{folder}/{name}")):
        return Program(str(path), _environment(root))
    if (found := which(name)) is not None:
        return Program(found, {})
    remedy = "`python tests/registry/places/install.py build/places` fetches it"
    raise RuntimeError(f"There is no {name}; {remedy}.")


def _environment(root: Path) -> dict[str, str]:
    libraries = [path for folder in ("usr/lib", "lib") for path in root.glob(f"{folder}/*-linux-*")]
    libraries += [path / "nss" for path in libraries if (path / "nss").is_dir()]
    variables = {"LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))}
    if (root / "etc/fonts").is_dir():
        variables["FONTCONFIG_SYSROOT"] = str(root)
    return variables
