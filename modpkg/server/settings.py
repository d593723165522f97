"""What an operator decides about a server."""

from __future__ import annotations

from msgspec import Struct

MB = 1_000_000
GB = 1_000 * MB


class ServerLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one account, session and release may take."""

    release_bytes: int = 200 * GB
    """Bytes of all blobs of one release."""
    release_blobs: int = 10_000
    account_bytes: int = 1_000 * GB
    """Bytes that one account has uploaded, committed or not."""
    open_candidates: int = 20
    """Of one account and module, candidates that nobody has decided about."""
    open_sessions: int = 20
    """Publishing sessions of one account that are not committed."""
    session_seconds: int = 24 * 60 * 60
    """How long a session may stay uncommitted before it is swept away."""
    body_bytes: int = 4 * MB
    """Of a request's JSON or form."""
    login_days: int = 14
    requests_per_second: float = 50
    """Requests that one address, and one token, may send in the long run, files of the registry
    left out; 0 for any number."""
    requests_at_once: int = 500
    """How many of them it may send at once."""


GITHUB = "https://token.actions.githubusercontent.com"
GITLAB = "https://gitlab.com"


class LoginIssuer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An issuer of OpenID Connect by which people log in."""

    url: str
    """As it calls itself, such as ``https://accounts.example``."""
    title: str
    """What the button says."""
    client_id: str
    """What the issuer calls this server."""
    client_secret: str | None = None
    registers: bool = True
    """Whether whoever logs in there for the first time gets an account."""


class ServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one server."""

    storage: str
    """A folder, or the address of an object store."""
    database: str | None = None
    """A URL of SQLAlchemy; None for a file of SQLite beside the storage."""
    url: str = "http://127.0.0.1:8420"
    """The address under which people reach it, without a slash at its end."""
    moved: bool = False
    """Whether it has another address from now on than the registry says."""
    name: str | None = None
    """What a new registry calls itself."""
    log_key: str | None = None
    """The key of the registry's log: a name of `modpkg key`, or a file; None for no log."""
    log_key_before: str | None = None
    """The key that has signed the log so far, if ``log_key`` takes its place."""
    open_registration: bool = True
    """Whether anybody may make an account."""
    login_issuers: tuple[LoginIssuer, ...] = ()
    publishing_issuers: tuple[str, ...] = (GITHUB, GITLAB)
    """Issuers whose CI jobs modules may trust."""
    proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies in front of the server, whose word on whom they ask for
    counts."""
    tuf_keys: str | None = None
    """The folder of the keys that sign its index, ``*.pem``; None if nothing is signed."""
    limits: ServerLimits = ServerLimits()

    @property
    def api(self) -> str:
        """The address of the API, as ``registry.json`` has it."""
        return f"{self.url}/api/1/"

    @property
    def is_secure(self) -> bool:
        """Return whether people reach it by https."""
        return self.url.startswith("https://")
