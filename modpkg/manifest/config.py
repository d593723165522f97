"""The user's settings: ``config.toml`` in modpkg's home, validated strictly.

The file has secrets, and one that is written wrongly may have them anywhere: no error repeats a
value of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from modpkg.core import system
from modpkg.core.errors import ManifestError
from modpkg.core.files import parse_bytes, shown
from modpkg.core.home import REGISTRY_VARIABLE, config_path
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.ownership import check_owner, dangers
from modpkg.core.redacted import is_token
from modpkg.manifest.keys import (
    CONFIG_TABLES,
    PLACES_KEYS,
    REGISTRY_KEYS,
    SIGSTORE_KEYS,
    STORE_KEYS,
)
from modpkg.manifest.limits import DEFAULTS, Limits, parse_limits
from modpkg.manifest.logins import Login, Password, Secret, SentToken, Token
from modpkg.manifest.normal_address import normal_address, origin, origin_text
from modpkg.manifest.stored_logins import TOKEN, check_token, stored_logins, token_of_environment
from modpkg.manifest.values import has_login, is_alias
from modpkg.toml.document import decoded, read_document
from modpkg.toml.node import ManifestSource, Node, Table, hint
from modpkg.toml.positions import KeyPath
from modpkg.toml.text import read_head

SCHEMES = ("http", "https", "s3", "gs", "az", "abfs", "abfss", "hf", "file")
"""URL schemes that the settings accept; only mirrors may be folders."""
STORE_SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
"""Those of object stores."""
_KEYS = (*CONFIG_TABLES, *PLACES_KEYS, *REGISTRY_KEYS, *SIGSTORE_KEYS, *STORE_KEYS)
_VARIABLE = lazy_pattern(r"[A-Za-z_][A-Za-z0-9_]*")
_REGION = lazy_pattern(r"[A-Za-z0-9-]{1,64}")
_HOST = lazy_pattern(r"[a-z0-9]([a-z0-9.:-]*[a-z0-9])?")


class StoreAccess(Struct, frozen=True):
    """How an object store is reached, where that is not its cloud's own way."""

    endpoint: str | None = None
    """The address of the service, as of MinIO, Ceph or R2."""
    region: str | None = None


class RegistrySettings(Struct, frozen=True):
    """Settings of one registry."""

    mirrors: tuple[str, ...] = ()
    """Addresses that are tried before the registry itself, in this order."""
    login: Login | None = None
    access: StoreAccess = StoreAccess()
    api: str | None = None
    """The address of its API, where ``registry.json`` names one at another origin."""


class Settings(Struct, frozen=True):
    """The user's settings; all defaults without a file."""

    registries: Mapping[str, RegistrySettings] = {}
    """By normalised address."""
    aliases: Mapping[str, str] = {}
    """Address by alias; ``default`` is the one where nothing else names a registry."""
    max_size: int | None = None
    """Size in bytes above which the store is cleaned up automatically."""
    limits: Limits = msgspec.field(default_factory=lambda: DEFAULTS)
    """What one command may take from one registry."""

    place_hosts: frozenset[str] = frozenset()
    """Hosts, besides the hub's, that files outside of registries are fetched from."""
    trust_config: Path | None = None
    """What Sigstore's client trusts: a file; the public Sigstore if it is None."""
    logins: Mapping[str, Login] = {}
    """By origin, of `modpkg login` and the environment; one in ``config.toml`` comes first."""

    def of(self, address: str) -> RegistrySettings:
        """Return the settings of the registry at an address."""
        own = self.registries.get(normal_address(address)) or RegistrySettings()
        if own.login is None and self.logins:
            own = replace(own, login=self.logins.get(origin_text(address)))
        return own

    def access(self, address: str) -> StoreAccess:
        """Return how an object store is reached: by its address, or that of the whole bucket."""
        own = self.of(address).access
        if own != StoreAccess():
            return own
        scheme, found, rest = address.partition("://")
        return self.of(f"{scheme}{found}{rest.partition('/')[0]}").access

    def mirror_login(self, mirror: str, registry: str) -> Login | None:
        """Return the login for a mirror: its own, or the registry's if the origin is the same.

        A registry's login is never sent to another origin.
        """
        own = self.of(mirror).login
        if own is None and origin(mirror) == origin(registry):
            return self.of(registry).login
        return own


def read_settings(warn: Callable[[str], None] | None = None) -> Settings:
    """Read the user's settings; warn if the file has a secret and other users can read it.

    Raises:
        ManifestError: The file is invalid; the message names the line.
        InstallError: It belongs to another user.
    """
    path = config_path()
    try:
        content = read_head(path)
        status = path.stat()
        mode, owner = status.st_mode, status.st_uid
    except FileNotFoundError:
        return _with_logins(Settings())
    except OSError as error:
        message = f"it cannot be read: {error.strerror}."
        raise ManifestError("M110", where=shown(path), message=message) from None
    if path.parent.stat().st_uid != owner:  # whose home it is was this user's choice
        check_owner(path)
    if warn is not None:
        for danger in dangers(path):
            warn(f"{danger}.")
    settings = parse_settings(decoded(content, shown(path)), path)
    if warn is not None and system.others_can_read(mode) and _has_secret_of_its_own(settings):
        warn(
            f"{shown(path)} has a token or password in it, and other users of this machine can "
            f"read it; run: chmod 600 {shown(path)}"
        )
    return _with_logins(settings)


def _with_logins(settings: Settings) -> Settings:
    """Return settings with the logins that are in neither of them: those kept, and one of CI.

    The token in ``MODPKG_TOKEN`` is for the registry that ``MODPKG_REGISTRY`` names, and for no
    other.
    """
    logins: dict[str, Login] = {**stored_logins()}
    token, named = token_of_environment(), os.environ.get(REGISTRY_VARIABLE, "")
    address = settings.aliases.get(named, named)
    if token is not None and origin(address)[0] in ("http", "https"):
        check_token(token)
        logins[origin_text(address)] = SentToken(token, f"correct {TOKEN}, which it comes from")
    return replace(settings, logins=logins) if logins else settings


def _has_secret_of_its_own(settings: Settings) -> bool:
    return any(
        not secret.in_environment
        for each in settings.registries.values()
        if each.login is not None
        for secret in each.login.secrets[-1:]
    )


def parse_settings(text: str, path: Path) -> Settings:
    """Parse settings; ``path`` is their file in error messages.

    Raises:
        ManifestError: The text is invalid; the message names the line.
    """
    document = read_document(text, shown(path), is_private=True)
    source = ManifestSource(shown(path), document.places, may_be_secret=_may_be_secret)
    root = Node(source, (), document.data).table(CONFIG_TABLES)
    registries: dict[str, RegistrySettings] = {}
    if (tables := root.get("registry")) is not None:
        for key, node in tables.entries().items():
            if origin(_address(node, key))[0] == "file":
                raise node.fail("is a local folder, which has no settings")
            address = normal_address(key)
            if address in registries:
                raise node.fail("is set twice, in two spellings of one address; keep one")
            registries[address] = _registry(node, address)
    return Settings(
        registries,
        _aliases(root.get("registries")),
        _max_size(root.get("store")),
        parse_limits(root.get("limits")),
        _place_hosts(root.get("places")),
        _trust_config(root.get("sigstore")),
    )


def _may_be_secret(path: KeyPath) -> bool:
    """Return whether a key can be a secret in the wrong place: no key that there is, no address."""
    key = str(path[-1])
    if "://" in key or hint(key, _KEYS):
        return False
    return path[0] != "registries" or not is_alias(key) or is_token(key)


def _aliases(node: Node | None) -> dict[str, str]:
    """Return address by alias; a folder's path is absolute, since no manifest's folder is near."""
    aliases: dict[str, str] = {}
    for entry in node.entries().values() if node is not None else ():
        alias, text = str(entry.path[-1]), entry.text(most=2000)
        if not is_alias(alias):
            raise entry.fail("is not an alias: use letters, digits, '-', '_' and '.'")
        if "://" in text:
            _address(entry, text)
        elif not (folder := Path(text).expanduser()).is_absolute():
            raise entry.fail("is neither a URL nor an absolute path")
        else:
            text = str(folder)
        aliases[alias] = text
    return aliases


def _address(node: Node, text: str) -> str:
    """Return the address of a registry or mirror; ``node`` is its position in errors."""
    try:
        scheme, host, _ = origin(text)
        login = has_login(text)
    except ValueError:
        scheme, host, login = "", "", "@" in text
    if login:  # which must not be repeated
        message = "an address has a user or a password in it; remove it, and write token-env"
        raise ManifestError("M110", where=node.where, message=f"{message} or password-env instead.")
    if scheme not in SCHEMES or not (host or scheme == "file"):
        raise node.fail("is not an address (like 'https://models.example')")
    return text


def _registry(node: Node, address: str) -> RegistrySettings:
    table = node.table(REGISTRY_KEYS)
    mirrors = table.get("mirrors")
    addresses = [_address(item, item.text(2000)) for item in mirrors.items()] if mirrors else []
    for position, mirror in enumerate(addresses):
        known = [address, *map(normal_address, addresses[:position])]
        if normal_address(mirror) in known and mirrors is not None:
            raise mirrors.items()[position].fail("is a duplicate; remove it")
    api = table.get("api")
    if api is not None and origin(_address(api, api.text(2000)))[0] not in ("http", "https"):
        raise api.fail("is not an address of http or https")
    return RegistrySettings(
        tuple(addresses),
        _login(table, address),
        _access(table, address),
        None if api is None else api.text(2000),
    )


def _access(table: Table, address: str) -> StoreAccess:
    endpoint, region = table.get("endpoint"), table.get("region")
    for node in (endpoint, region):
        if node is not None and origin(address)[0] not in STORE_SCHEMES:
            raise node.fail(f"is for object stores ({', '.join(STORE_SCHEMES)}); remove it")
    if endpoint is not None and origin(_address(endpoint, endpoint.text(2000)))[0] not in (
        "http",
        "https",
    ):
        raise endpoint.fail("is not an address of http or https")
    if region is not None and not _REGION.fullmatch(region.text()):
        raise region.fail("is not the name of a region (like 'eu-west-1')")
    return StoreAccess(
        None if endpoint is None else endpoint.text(2000), None if region is None else region.text()
    )


def _login(table: Table, address: str) -> Login | None:
    token, username, password = (_secret(table, name) for name in ("token", "username", "password"))
    given = [secret.node for secret in (token, username, password) if secret is not None]
    if not given:
        return None
    if origin(address)[0] not in ("http", "https"):
        raise given[0].fail(
            "is for http(s) addresses; object stores take theirs from the environment "
            "(AWS_…, GOOGLE_…, AZURE_…)"
        )
    if token is not None:
        if len(given) > 1:
            raise given[1].fail("conflicts with a token; keep one of them")
        return Token(token)
    if username is None or password is None:
        other = "password-env" if password is None else "username"
        raise given[0].fail(f"needs the other half; add {other}")
    return Password(username, password)


def _secret(table: Table, name: str) -> Secret | None:
    plain, variable = table.get(name), table.get(f"{name}-env")
    if plain is not None and variable is not None:
        raise variable.fail(f"conflicts with {name}; keep one of them")
    if plain is not None:
        plain.text(most=10_000)
        return Secret(plain, in_environment=False)
    if variable is None:
        return None
    if not _VARIABLE.fullmatch(variable.text()):
        raise variable.fail("has to be the name of an environment variable, not the secret itself")
    return Secret(variable, in_environment=True)


def _max_size(node: Node | None) -> int | None:
    size = node.table(STORE_KEYS).get("max-size") if node is not None else None
    if size is None:
        return None
    count = parse_bytes(size.text())
    if not count:
        raise size.fail("is not a size; write it like '100 GB'")
    return count


def _place_hosts(node: Node | None) -> frozenset[str]:
    hosts = node.table(PLACES_KEYS).get("hosts") if node is not None else None
    named = set()
    for item in hosts.items() if hosts is not None else ():
        text = item.text(most=253).lower()
        if not _HOST.fullmatch(text):
            raise item.fail("is not the name of a host (like 'models.example')")
        named.add(text)
    return frozenset(named)


def _trust_config(node: Node | None) -> Path | None:
    file = node.table(SIGSTORE_KEYS).get("trust-config") if node is not None else None
    if file is None:
        return None
    path = Path(file.text(most=2000)).expanduser()
    if not path.is_absolute():
        raise file.fail("is no absolute path")
    return path
