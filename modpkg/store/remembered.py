"""Results of slow checks, kept in the store by the digest of all that they depend on.

They are beside the results of tests, sealed like them, and nothing needs them: a missing or damaged
one is computed again.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.errors import ModpkgError
from modpkg.core.files import write_atomically
from modpkg.core.home import store_folder
from modpkg.core.ownership import check_links_of_owner
from modpkg.core.records import canonical_json
from modpkg.core.regular_file import read_file
from modpkg.core.sealed import seal, unseal
from modpkg.core.version import __version__
from modpkg.store.contents import TESTED

T = TypeVar("T")
_PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "peft", "jinja2")
"""Packages that what transformers does may depend on."""


class RememberedResult(Struct, frozen=True):
    """``tested/<aa>/<hex>``: a result by the digest of its inputs."""

    key: Digest
    remembered: Any


def remembered(inputs: Any, kind: Any, compute: Callable[[], T]) -> T:
    """Return what ``compute`` returned for these inputs and these packages, or call it.

    Args:
        inputs: All that the result depends on beside packages, as canonical JSON can hold it; the
            first of it says what is computed, and changes when that is computed in another way.
        kind: The type of the result, for msgspec.
        compute: Returns the result; what it raises is not remembered.
    """
    key = digest_bytes(canonical_json([inputs, __version__, list(sys.version_info), _versions()]))
    root = store_folder()
    path = root / TESTED / key[7:9] / key[7:]
    with contextlib.suppress(OSError, ModpkgError, msgspec.MsgspecError):
        check_links_of_owner(root, ("", TESTED))
        found = unseal(read_file(path), RememberedResult)
        if found.key == key:
            result: T = msgspec.convert(found.remembered, kind)
            return result
    result = compute()
    with contextlib.suppress(OSError, ModpkgError):  # it is only a help
        check_links_of_owner(root, ("", TESTED))
        record = RememberedResult(key, msgspec.to_builtins(result))
        write_atomically(path, seal(record), within=root)
    return result


def _versions() -> list[str | None]:
    return [_version(package) for package in _PACKAGES]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
