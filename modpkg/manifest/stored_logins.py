"""The logins that ``modpkg login`` keeps: a token for each origin, in a keyring or in a file.

``logins.json`` in modpkg's home says for which origins there is one. The token is in the keyring of
the user's system where there is one that works (the package ``keyring``), else in the file, which
nobody else may read. A token is sent to its origin and nowhere else.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from modpkg.core import system
from modpkg.core.bounds import CREDENTIALS_BYTES
from modpkg.core.errors import InstallError, UsageError
from modpkg.core.file_lock import file_lock
from modpkg.core.files import make_folder, shown, write_atomically
from modpkg.core.home import home
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.ownership import check_owner
from modpkg.core.regular_file import read_file

TOKEN = "MODPKG_TOKEN"  # noqa: S105 - a variable's name
"""The variable with a token for the registry that ``MODPKG_REGISTRY`` names."""
SERVICE = "modpkg"
"""Under which a keyring has the tokens, by origin."""
_found: dict[str, str] = {}
"""By origin, the tokens that a keyring gave this process: it may ask its user each time."""
_SENDABLE = lazy_pattern(r"[\x21-\x7e]{1,10000}")


class StoredLogin(Struct, frozen=True, omit_defaults=True):
    """What is kept of a login, for one origin."""

    name: Annotated[str, Meta(max_length=200)]
    """Whose token it is."""
    token: Annotated[str, Meta(max_length=10_000)] | None = None
    """None where a keyring has it."""
    expires: Annotated[str, Meta(max_length=40)] = ""
    """A UTC time; empty if nobody knows."""
    made: int | None = None
    """The number of a token that ``modpkg login`` had made, and ``modpkg logout`` revokes."""

    def __repr__(self) -> str:
        return f"StoredLogin(name={self.name!r})"

    @property
    def is_over(self) -> bool:
        """Return whether the token has expired."""
        now = datetime.datetime.now(datetime.timezone.utc)
        return bool(self.expires) and self.expires <= f"{now:%Y-%m-%dT%H:%M:%SZ}"


class StoredToken(Struct, frozen=True):
    """Authentication by the token of a stored login, which is looked up when it is needed."""

    origin: str
    login: StoredLogin

    def __repr__(self) -> str:
        return f"StoredToken(origin={self.origin!r})"

    @property
    def secrets(self) -> tuple[()]:
        return ()

    @property
    def remedy(self) -> str:
        """What helps where the token is not accepted."""
        return f"log in again: modpkg login {self.origin}"

    def reveal(self) -> str:
        """Return the token.

        Raises:
            InstallError: The keyring does not give it.
        """
        token = self.login.token
        if token is None:
            token = _in_keyring(self.origin)
        if token is None or not _SENDABLE.fullmatch(token):
            raise InstallError("M523", url=self.origin, path=shown(logins_path()))
        return token

    def authorization(self) -> str:
        """Return the value of the header ``Authorization``.

        Raises:
            InstallError: The keyring does not give the token.
        """
        return f"Bearer {self.reveal()}"

    def echoes(self) -> tuple[bytes, ...]:
        """Return what no answer of the server may have in it."""
        return (self.reveal().encode(),)


def logins_path() -> Path:
    """Return the path of the file that says which logins there are."""
    return home() / "logins.json"


def stored_logins() -> Mapping[str, StoredToken]:
    """Return the logins that are kept and have not expired, by origin.

    Raises:
        InstallError: The file is damaged, or others can read or change it.
    """
    return {
        origin: StoredToken(origin, login) for origin, login in _read().items() if not login.is_over
    }


def _read() -> dict[str, StoredLogin]:
    path = logins_path()
    try:
        mode = path.lstat().st_mode
    except OSError:
        return {}
    check_owner(path)
    if system.others_can_read(mode) or system.everybody_can_write(mode):
        raise InstallError("M524", path=path, word=system.shell_word(str(path)))
    try:
        return msgspec.json.decode(read_file(path, CREDENTIALS_BYTES), type=dict[str, StoredLogin])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        reason = "it is not a file that modpkg wrote"
        remedy = "remove it, and log in again"
        raise InstallError("M510", path=path, reason=reason, remedy=remedy) from None


@contextlib.contextmanager
def _changed() -> Iterator[dict[str, StoredLogin]]:
    """Give the logins, to change them; they are written in the end."""
    path = logins_path()
    make_folder(path.parent)
    with file_lock(path.with_suffix(".lock"), exclusive=True, mode=0o600):
        logins = _read()
        yield logins
        write_atomically(path, msgspec.json.format(msgspec.json.encode(logins)), mode=0o600)


def check_token(token: str) -> None:
    """Check that a token can be sent.

    Raises:
        UsageError: It is empty, or has spaces or letters that no token can have.
    """
    if not _SENDABLE.fullmatch(token):
        raise UsageError("M901", message="A token is one word of ASCII letters, digits and signs.")


def store_login(origin: str, token: str, login: StoredLogin) -> str:
    """Keep a login, and return where its token is, for people.

    Raises:
        InstallError: It cannot be written.
    """
    _found.pop(origin, None)
    kept = _to_keyring(origin, token)
    with _changed() as logins:
        logins[origin] = msgspec.structs.replace(login, token=None if kept else token)
    return kept or shown(logins_path())


def forget_login(origin: str) -> StoredToken | None:
    """Forget the login for an origin, and return it with its token; None if there was none."""
    with _changed() as logins:
        login = logins.pop(origin, None)
    if login is None:
        return None
    if login.token is None:
        token = _in_keyring(origin)
        _found.pop(origin, None)
        library = _keyring()
        if library is not None:
            with contextlib.suppress(Exception):
                library.delete_password(SERVICE, origin)
        login = msgspec.structs.replace(login, token=token or "")
    return StoredToken(origin, login)


def token_of_environment() -> str | None:
    """Return the token in ``MODPKG_TOKEN``; None without one."""
    return os.environ.get(TOKEN, "").strip() or None


def _keyring() -> Any:
    """Return the package ``keyring``, slow to import; None if it has no place for secrets."""
    try:
        import keyring
        from keyring.backends import fail, null
    except ImportError:
        return None
    try:
        backend = keyring.get_keyring()
    except Exception:  # a backend that breaks while it is loaded
        return None
    return None if isinstance(backend, (fail.Keyring, null.Keyring)) else keyring


def _in_keyring(origin: str) -> str | None:
    if origin in _found:
        return _found[origin]
    library = _keyring()
    if library is None:
        return None
    try:
        token: str | None = library.get_password(SERVICE, origin)
    except Exception:  # locked, or its service is gone
        return None
    if token is not None:
        _found[origin] = token
    return token


def _to_keyring(origin: str, token: str) -> str | None:
    """Put a token into the keyring, and return its name; None if it does not keep it."""
    library = _keyring()
    if library is None:
        return None
    try:
        library.set_password(SERVICE, origin, token)
        kept = library.get_password(SERVICE, origin) == token
    except Exception:
        return None
    return f"the keyring ({library.get_keyring().name})" if kept else None
