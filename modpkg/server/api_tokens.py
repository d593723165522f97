"""Tokens of the API: made, listed, revoked; only their digests are kept.

A token is ``modpkg_``, forty random characters, and six of a checksum of all before them, by which
scanners of leaked secrets tell one without asking anybody.
"""

from __future__ import annotations

import datetime
import re
import secrets
import string
import zlib
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy import select
from sqlalchemy.orm import Session

from modpkg.core.errors import AccessRefused, InvalidValue, NotFound
from modpkg.registry.api_records import NewToken, TokenInfo, TokenList, TokenRequest
from modpkg.server.callers import ACTIONS, BEGINNING, Caller, check_known, secret_digest
from modpkg.server.clock import now, shown
from modpkg.server.events import log_event
from modpkg.server.state import Server
from modpkg.server.tables import Account, ApiToken

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM = 40
"""Random characters of a token, 238 bits."""
CHECKSUM = 6
SHOWN = len(BEGINNING) + 4
"""Characters of a token by which people tell theirs apart."""
DAYS = 90
"""How long a token is valid, where nobody says."""
MOST = 100
"""Valid tokens of one account."""
_PATTERN = re.compile(r"[a-z0-9*]+(?:-[a-z0-9*]+)*")


def new_token_text() -> str:
    """Return a new token."""
    start = BEGINNING + "".join(secrets.choice(_DIGITS) for _ in range(RANDOM))
    return start + _checksum(start)


def is_token_text(text: str) -> bool:
    """Return whether a text can be a token: it has the form, and its checksum is right."""
    if len(text) != len(BEGINNING) + RANDOM + CHECKSUM or not text.startswith(BEGINNING):
        return False
    return text.isascii() and _checksum(text[:-CHECKSUM]) == text[-CHECKSUM:]


def _checksum(text: str) -> str:
    rest, found = zlib.crc32(text.encode()), ""
    for _ in range(CHECKSUM):
        rest, digit = divmod(rest, len(_DIGITS))
        found = _DIGITS[digit] + found
    return found


def normal_pattern(text: str) -> str:
    """Return a pattern of module names as names are written: lower case, with single hyphens.

    Raises:
        InvalidValue: It is none.
    """
    pattern = re.sub(r"[-_.]+", "-", text.strip()).lower()
    if not _PATTERN.fullmatch(pattern) and not re.fullmatch(r"[a-z0-9*-]+\*", pattern):
        raise InvalidValue("M438", reason=f"{text!r} is not a name of modules, with * or without")
    return pattern


def is_covered(pattern: str, by: Iterable[str]) -> bool:
    """Return whether all names of a pattern are surely among those of others.

    >>> is_covered("acme-*", ["acme-*"]), is_covered("acme-words", ["acme*"])
    (True, True)
    >>> is_covered("*", ["acme-*"])
    False
    """
    return any(fnmatchcase(pattern, one) for one in by)


def create_token(
    db: Session, caller: Caller, wanted: TokenRequest, *, publisher_id: int | None = None
) -> NewToken:
    """Make a token of a caller, with no more rights than he asks with.

    Raises:
        AccessRefused: The caller is not known, or asks with a token that cannot manage.
        InvalidValue: It would have more rights, or the account has too many.
    """
    account_id = check_known(caller, "manage", "tokens")
    own = None if caller.token_id is None else db.get(ApiToken, caller.token_id)
    if "manage" not in caller.actions:
        raise AccessRefused("M432", name=caller.name, action="manage", module="tokens")
    patterns = sorted({normal_pattern(text) for text in wanted.modules})
    if more := sorted({*wanted.actions} - caller.actions):
        raise InvalidValue("M438", reason=f"the one you ask with is not for {', '.join(more)}")
    for pattern in patterns:
        if not is_covered(pattern, caller.patterns):
            raise InvalidValue("M438", reason=f"the one you ask with is not for {pattern}")
    moment = now()
    expires = moment + datetime.timedelta(days=wanted.days or DAYS)
    if own is not None and own.expires is not None:
        expires = min(expires, own.expires)
    if len(_valid(db, account_id)) >= MOST:
        raise InvalidValue("M438", reason=f"you have {MOST} already; revoke some")
    made = add_token(
        db,
        account_id,
        wanted.name,
        wanted.actions,
        patterns,
        expires,
        parent_id=caller.token_id,
        publisher_id=publisher_id,
    )
    log_event(db, caller.name, "token.create", token=made.info.id, name=made.info.name)
    return made


def add_token(
    db: Session,
    account_id: int,
    name: str,
    actions: Collection[str],
    patterns: Collection[str],
    expires: datetime.datetime | None,
    *,
    parent_id: int | None = None,
    publisher_id: int | None = None,
) -> NewToken:
    """Add a token without asking whether anybody may."""
    text = new_token_text()
    row = ApiToken(
        account_id=account_id,
        name=name,
        digest=secret_digest(text),
        beginning=text[:SHOWN],
        actions=" ".join(action for action in ACTIONS if action in actions),
        modules=" ".join(patterns),
        created=now(),
        expires=expires,
        parent_id=parent_id,
        publisher_id=publisher_id,
    )
    db.add(row)
    db.flush()
    return NewToken(text, db.get_one(Account, account_id).name, info_of(row))


def info_of(row: ApiToken) -> TokenInfo:
    """Return what the API says of a token."""
    return TokenInfo(
        id=row.id,
        name=row.name,
        beginning=row.beginning,
        actions=row.actions.split(),
        modules=row.modules.split(),
        created=shown(row.created),
        expires=shown(row.expires),
        used=shown(row.used),
        revoked=shown(row.revoked),
    )


def tokens_of(db: Session, caller: Caller) -> list[TokenInfo]:
    """Return the valid tokens of a caller; those that he asks without rights for are left out.

    Raises:
        AccessRefused: The caller is not known.
    """
    account_id = check_known(caller, "manage", "tokens")
    whole = _is_whole(caller)
    return [info_of(row) for row in _valid(db, account_id) if whole or row.id == caller.token_id]


def revoke_token(db: Session, caller: Caller, token_id: int) -> None:
    """Revoke a token of a caller, and those that were made with it.

    Raises:
        NotFound: He has no such token, or asks with one that is not for managing all.
    """
    check_known(caller, "manage", "tokens")
    row = db.get(ApiToken, token_id)
    mine = row is not None and row.account_id == caller.account_id
    if row is None or not mine or not (_is_whole(caller) or token_id == caller.token_id):
        raise NotFound("M439", what="token", name=str(token_id))
    end_tokens(db, [token_id])
    log_event(db, caller.name, "token.revoke", token=token_id, name=row.name)


def end_tokens(db: Session, ids: Collection[int]) -> None:
    """Revoke tokens, and those that were made with them."""
    seen: set[int] = set()
    todo = set(ids)
    while todo:
        seen |= todo
        for row in db.scalars(select(ApiToken).where(ApiToken.id.in_(todo))):
            row.revoked = row.revoked or now()
        todo = {*db.scalars(select(ApiToken.id).where(ApiToken.parent_id.in_(todo)))} - seen


def _is_whole(caller: Caller) -> bool:
    return "manage" in caller.actions and "*" in caller.patterns


def _valid(db: Session, account_id: int) -> list[ApiToken]:
    query = select(ApiToken).where(
        ApiToken.account_id == account_id,
        ApiToken.publisher_id.is_(None),
        ApiToken.revoked.is_(None),
        ApiToken.expires.is_(None) | (ApiToken.expires > now()),
    )
    return [*db.scalars(query.order_by(ApiToken.id))]


@get("/api/1/tokens", sync_to_thread=True)
def list_tokens(server: NamedDependency[Server], caller: NamedDependency[Caller]) -> TokenList:
    """Return the tokens of who asks."""
    with server.database.begin() as db:
        return TokenList(tokens_of(db, caller))


@post("/api/1/tokens", sync_to_thread=True)
def make_token(
    server: NamedDependency[Server], caller: NamedDependency[Caller], data: JSONBody[TokenRequest]
) -> NewToken:
    """Make a token, with no more rights than the one that is asked with."""
    with server.database.begin() as db:
        return create_token(db, caller, data)


@delete("/api/1/tokens/{token_id:int}", sync_to_thread=True)
def drop_token(
    server: NamedDependency[Server], caller: NamedDependency[Caller], token_id: FromPath[int]
) -> None:
    """Revoke a token, and those that were made with it."""
    with server.database.begin() as db:
        revoke_token(db, caller, token_id)


@delete("/api/1/tokens/current", sync_to_thread=True)
def drop_this_token(server: NamedDependency[Server], caller: NamedDependency[Caller]) -> None:
    """Revoke the token that is asked with."""
    check_known(caller, "manage", "tokens")
    if caller.token_id is not None:
        with server.database.begin() as db:
            revoke_token(db, caller, caller.token_id)


ROUTES = [list_tokens, make_token, drop_token, drop_this_token]
