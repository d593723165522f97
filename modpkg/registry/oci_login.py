"""Logins of OCI registries, where ``docker login`` and its like leave them.

They are in ``config.json`` below ``DOCKER_CONFIG``, or below ``~/.docker``: as text, or with a
credential helper. A helper is a program of the user's own, which the user's own file names; it is
run as Docker runs it (``docker-credential-NAME get``), for the registry that was named alone.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from modpkg.core.bounds import CREDENTIALS_BYTES, HELPER_SECONDS
from modpkg.core.decoding import decoding_reason
from modpkg.core.errors import RegistryUnreachable
from modpkg.core.regular_file import read_file
from modpkg.core.system_processes import group_options, kill_group

_HUB = "https://index.docker.io/v1/"
"""Under which Docker keeps the login of ``docker.io``."""
_HELPER = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_WITH_TOKEN = "<token>"  # noqa: S105 - a user's name
"""The user that a helper gives where the secret is an identity token."""


class OciLogin(Struct, frozen=True):
    """What proves who somebody is to a registry, or to the server that gives its tokens."""

    user: str
    secret: str
    is_token: bool = False
    """Whether the secret is an identity token, which OAuth 2 calls a refresh token."""

    def basic(self) -> str:
        """Return the value of the header ``Authorization``."""
        pair = f"{self.user}:{self.secret}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


class _Entry(Struct, rename={"identity_token": "identitytoken"}):
    auth: str = ""
    username: str = ""
    password: str = ""
    identity_token: str = ""


class _DockerConfig(Struct, rename={"cred_helpers": "credHelpers", "creds_store": "credsStore"}):
    auths: dict[str, _Entry] = {}
    cred_helpers: dict[str, str] = {}
    creds_store: str = ""


class _Helped(Struct, rename="pascal"):
    """What a credential helper prints."""

    username: str
    secret: str


def docker_config() -> Path:
    """Return the path of the file with the logins."""
    folder = os.environ.get("DOCKER_CONFIG") or "~/.docker"
    return Path(f"{folder}/config.json").expanduser()


def login_of(host: str) -> OciLogin | None:
    """Return the login of a registry; None if there is none.

    Args:
        host: The host, with its port where it has one.

    Raises:
        RegistryUnreachable: The file is damaged, or its helper fails.
    """
    path = docker_config()
    try:
        config = _decode(read_file(path, CREDENTIALS_BYTES), _DockerConfig)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise _refusal(
            host, f"the logins in {path} cannot be read ({decoding_reason(error)})"
        ) from None
    key = _HUB if host == "docker.io" else host
    if helper := config.cred_helpers.get(host) or config.creds_store:
        return _helped(host, key, helper)
    for name, entry in config.auths.items():
        if name == key or (key != _HUB and _host_of(name) == host):
            return _login(host, entry, path)
    return None


def _decode(data: bytes, kind: Any) -> Any:
    return msgspec.json.decode(data, type=kind)


def _host_of(name: str) -> str:
    return re.sub(r"^https?://", "", name).partition("/")[0]


def _login(host: str, entry: _Entry, path: Path) -> OciLogin | None:
    if entry.identity_token:
        return OciLogin(entry.username, entry.identity_token, is_token=True)
    user, secret = entry.username, entry.password
    if entry.auth:
        try:
            user, _, secret = base64.b64decode(entry.auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise _refusal(host, f"its login in {path} is damaged") from None
    return OciLogin(user, secret) if user else None


def _helped(host: str, key: str, helper: str) -> OciLogin | None:
    """Return the login that a credential helper has; None if it has none."""
    name = f"docker-credential-{helper}"
    program = shutil.which(name) if _HELPER.fullmatch(helper) else None
    if program is None or not Path(program).is_absolute():  # one of the working folder is not ours
        raise _refusal(host, f"{docker_config()} names the helper {name}, which is not installed")
    process = subprocess.Popen(
        [program, "get"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **group_options(),
    )
    try:
        output, _ = process.communicate(key.encode(), timeout=HELPER_SECONDS)
    except subprocess.TimeoutExpired:
        raise _refusal(host, f"{name} did not answer for {HELPER_SECONDS} seconds") from None
    finally:
        if process.poll() is None:
            kill_group(process)
    if b"credentials not found" in output:
        return None
    try:
        found: _Helped = _decode(output[:CREDENTIALS_BYTES], _Helped)
    except msgspec.MsgspecError:
        raise _refusal(host, f"{name} gives no login") from None
    if process.returncode != 0:
        raise _refusal(host, f"{name} failed with status {process.returncode}")
    return OciLogin(found.username, found.secret, is_token=found.username == _WITH_TOKEN)


def _refusal(host: str, reason: str) -> RegistryUnreachable:
    remedy = f"log in again: docker login {host}"
    return RegistryUnreachable("M892", host=host, reason=reason, remedy=remedy)
