"""Secrets in the files of a release: found before it is published, since nobody can take it back.

Only forms that are no accident are looked for: those whose issuers gave them a beginning and a
length so that they can be found, and private keys. A file whose tokens are made up, such as cases
of a test, is named by ``[files] made-up-secrets``.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from pathlib import Path

from modpkg.core.digests import Digest, file_chunks, parse_digest
from modpkg.core.errors import PublishError
from modpkg.core.filenames import MANIFEST
from modpkg.core.records import ReleaseRecord, canonical_json

_KINDS: tuple[tuple[bytes, str, bytes], ...] = (
    (b"hf_", "a token of a hub", rb"hf_[A-Za-z]{34}"),
    (b"gh", "a token of GitHub", rb"gh[pousr]_[A-Za-z0-9]{36}"),
    (b"github_pat_", "a token of GitHub", rb"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    (b"glpat-", "a token of GitLab", rb"glpat-[A-Za-z0-9_-]{20}"),
    (b"AKIA", "a key of AWS", rb"AKIA[0-9A-Z]{16}"),
    (b"ASIA", "a key of AWS", rb"ASIA[0-9A-Z]{16}"),
    (b"AIza", "a key of Google", rb"AIza[0-9A-Za-z_-]{35}"),
    (b"sk-ant-", "a key of Anthropic", rb"sk-ant-[A-Za-z0-9_-]{40,}"),
    (b"sk-proj-", "a key of OpenAI", rb"sk-proj-[A-Za-z0-9_-]{40,}"),
    (b"xox", "a token of Slack", rb"xox[baprs]-[0-9]{8,}-[A-Za-z0-9-]{16,}"),
    (b"npm_", "a token of npm", rb"npm_[A-Za-z0-9]{36}"),
    (b"pypi-", "a token of PyPI", rb"pypi-AgE[A-Za-z0-9_-]{50,}"),
    (b"dckr_pat_", "a token of Docker", rb"dckr_pat_[A-Za-z0-9_-]{27}"),
    (b"modpkg_", "a token of modpkg", rb"modpkg_[A-Za-z0-9]{40,}"),
    (b"PRIVATE KEY-", "a private key", rb"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY-----"),
)
"""What each begins with, or has in it, which is quickly looked for; what it is; and its form."""
_PATTERNS = [
    (part, what, re.compile(rb"(?<![A-Za-z0-9_-])" + form + rb"(?![A-Za-z0-9])"))
    for part, what, form in _KINDS
]
_OVERLAP = 256
"""Bytes of the chunk before that are looked at again: no form is longer before it is one."""


def check_secrets(record: ReleaseRecord, path_of: Callable[[Digest], Path]) -> None:
    """Check that no file of a release, and not its record, has what looks like a secret.

    Files that are not there, because they lie elsewhere, are not looked at; nor are weights.

    Raises:
        PublishError: One has.
    """
    made_up = record.manifest.get("files", {}).get("made-up-secrets", [])
    if (found := secret_in(canonical_json(record.manifest))) is not None:
        raise PublishError("M535", path=MANIFEST, what=found, name=record.name)
    for path, entry in sorted(record.files.items()):
        if any(fnmatch.fnmatchcase(path, str(pattern)) for pattern in made_up):
            continue
        file = path_of(parse_digest(entry.digest))
        if not file.exists():
            continue
        before = b""
        for chunk in file_chunks(file):
            if (found := secret_in(before + chunk)) is not None:
                raise PublishError("M535", path=path, what=found, name=record.name)
            before = chunk[-_OVERLAP:]


def secret_in(data: bytes) -> str | None:
    """Return what kind of secret a text has in it; None if it has none.

    >>> secret_in(b"token: hf_" + b"a" * 34)
    'a token of a hub'
    """
    for part, what, pattern in _PATTERNS:
        if part in data and pattern.search(data):
            return what
    return None
