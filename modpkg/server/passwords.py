"""Passwords: how they are kept, and what they have to be.

They are kept as Argon2id hashes (RFC 9106). Hashing takes memory on purpose, so only a few are
computed at a time, and never within a transaction.
"""

from __future__ import annotations

import threading
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from modpkg.core.errors import InvalidValue

SHORTEST = 10
"""Characters of a password; which ones they are is not prescribed (NIST SP 800-63B)."""
LONGEST = 1000
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 << 10, parallelism=1)
"""19 MiB for each hash: the least that OWASP's cheat sheet on password storage recommends."""
_AT_ONCE = threading.BoundedSemaphore(8)


def check_password(password: str, name: str) -> None:
    """Check that somebody called ``name`` can have a password.

    Raises:
        InvalidValue: He cannot.
    """
    if len(password) < SHORTEST:
        raise InvalidValue("M436", reason=f"it has less than {SHORTEST} characters")
    if len(password) > LONGEST:
        raise InvalidValue("M436", reason=f"it has more than {LONGEST} characters")
    if password.casefold() == name.casefold() or len(set(password)) < 4:
        raise InvalidValue("M436", reason="it is the first that anybody would try")


def password_hash(password: str) -> str:
    """Return what is kept of a password."""
    with _AT_ONCE:
        return _HASHER.hash(_bytes(password))


def is_password(password: str, kept: str | None) -> bool:
    """Return whether a password is the one of which ``kept`` was kept.

    It takes as long if nothing was kept: how long an answer takes does not show who has an account.
    """
    with _AT_ONCE:
        try:
            _HASHER.verify(kept or _nobodys(), _bytes(password))
        except (VerificationError, InvalidHashError):
            return False
    return kept is not None


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")


@lru_cache(maxsize=1)
def _nobodys() -> str:
    return _HASHER.hash(b"nobody")
