"""Credentials of object stores that obstore does not find by itself, where their own tools do.

obstore reads the environment (``AWS_…``, ``GOOGLE_…``, ``AZURE_…``), gcloud's application default
credentials, and the metadata service of a cloud's machines. The AWS tools also read profiles of
``~/.aws``, and the Azure CLI has its own names of variables, and its login.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modpkg.core.bounds import CREDENTIALS_BYTES
from modpkg.core.errors import RegistryUnreachable
from modpkg.core.regular_file import read_text
from modpkg.manifest.config import StoreAccess

_AWS_IN_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
_AWS_NEEDS_TOOL = (
    "role_arn",
    "sso_session",
    "sso_start_url",
    "credential_process",
    "login_session",
)


INCOMPLETE = ("Missing AccessKeyId", "Missing SecretAccessKey")
"""What obstore says of half a credential."""
_FIRST_ENDPOINT = "AWS_ENDPOINT_URL_S3"
"""The variable that obstore heeds before any option."""
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
"""The variables that name a service's address, the first one first."""
_ENDPOINT_OPTIONS = {"s3": "endpoint", "gs": "base_url", "az": "endpoint"}


def endpoint_of(url: str, options: Mapping[str, Any]) -> str | None:
    """Return the address of an object store's service; None for its cloud's own.

    ``options`` are those that `store_options` returned.
    """
    scheme = _cloud(url)
    if scheme == "s3" and (first := os.environ.get(_FIRST_ENDPOINT)):
        return first
    if isinstance(given := options.get(_ENDPOINT_OPTIONS.get(scheme, "")), str):
        return given
    set_ = (os.environ.get(name) for name in _ENDPOINTS.get(scheme, ()))
    return next((value for value in set_ if value), None)


def _cloud(url: str) -> str:
    scheme = urlsplit(url).scheme
    return "az" if scheme in ("abfs", "abfss") else scheme


def store_options(url: str, access: StoreAccess | None = None) -> dict[str, Any]:
    """Return the options of obstore for an object store: how it is reached, and credentials.

    What the settings say of this very registry comes before variables, but for one of obstore's.

    Raises:
        RegistryUnreachable: The AWS profile that ``AWS_PROFILE`` names does not exist, or is of a
            kind that cannot be read here.
    """
    cloud, access = _cloud(url), access or StoreAccess()
    options: dict[str, Any] = {}
    if cloud == "s3":
        options = _aws(url)
    elif cloud == "az":
        options = _azure()
    if access.endpoint is not None:
        options[_ENDPOINT_OPTIONS[cloud]] = access.endpoint
    if access.region is not None and cloud == "s3":
        options["region"] = access.region
    return options


def missing_credentials(url: str) -> RegistryUnreachable:
    """Return the error for an object store that needs credentials, of which none were found."""
    scheme = urlsplit(url).scheme
    remedy = {
        "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, run 'aws configure', or set "
        "AWS_SKIP_SIGNATURE=true for a public bucket",
        "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run 'gcloud auth application-default login'",
    }.get(
        scheme,
        "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, "
        "or run 'az login' and set AZURE_STORAGE_ACCOUNT_NAME",
    )
    return RegistryUnreachable("M320", url=url, reason="none were found", remedy=remedy)


def _aws(url: str) -> dict[str, Any]:
    set_ = {name for name in _AWS_IN_ENVIRONMENT if os.environ.get(name)}
    named = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    profile = named or "default"
    config = _sections("AWS_CONFIG_FILE", "config")
    settings = config.get("default" if profile == "default" else f"profile {profile}", {})
    keys = _sections("AWS_SHARED_CREDENTIALS_FILE", "credentials").get(profile, {})
    options: dict[str, Any] = {}
    region = settings.get("region") or keys.get("region")
    if region and not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        options["region"] = region
    endpoint = settings.get("endpoint_url")
    if endpoint and not any(
        os.environ.get(f"AWS_ENDPOINT{end}") for end in ("", "_URL", "_URL_S3")
    ):
        options["endpoint"] = endpoint
    if set_:
        return options
    if named and not (settings or keys):
        _refuse(url, f"there is no profile {profile!r} in ~/.aws, which AWS_PROFILE names")
    needed = next((key for key in _AWS_NEEDS_TOOL if settings.get(key) or keys.get(key)), None)
    for place in () if needed == "role_arn" else (keys, settings):
        if place.get("aws_access_key_id") and place.get("aws_secret_access_key"):
            options["access_key_id"] = place["aws_access_key_id"]
            options["secret_access_key"] = place["aws_secret_access_key"]
            if token := place.get("aws_session_token"):
                options["token"] = token
            return options
    if needed:
        command = f"aws configure export-credentials --profile {profile} --format env"
        _refuse(
            url,
            f"the profile {profile!r} of ~/.aws gets them by {needed}, which only its own tool can",
            f'run: eval "$({command})"',
        )
    return options


def _refuse(url: str, reason: str, remedy: str = "correct AWS_PROFILE, or unset it") -> None:
    raise RegistryUnreachable("M320", url=url, reason=reason, remedy=remedy)


def _sections(variable: str, name: str) -> dict[str, dict[str, str]]:
    """Return the profiles of a file of the AWS tools; none if it is not there or broken."""
    import configparser  # which only clouds need

    path = Path(os.environ.get(variable) or Path("~/.aws") / name).expanduser()
    parser = configparser.RawConfigParser(default_section="", strict=False)
    try:
        parser.read_string(read_text(path, CREDENTIALS_BYTES))
    except (OSError, ValueError, configparser.Error):
        return {}
    return {section.strip(): dict(parser[section]) for section in parser.sections()}


def _azure() -> dict[str, Any]:
    options: dict[str, Any] = {}
    for own, theirs, option in (
        ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME", "account_name"),
        ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "account_key"),
    ):
        if (value := os.environ.get(own)) and not os.environ.get(theirs):
            options[option] = value
    known = ("_STORAGE_ACCOUNT_KEY", "_STORAGE_SAS_", "_CLIENT_", "_FEDERATED_", "_SKIP_", "_MSI_")
    is_set = any(name.startswith(f"AZURE{part}") for name in os.environ for part in known)
    folder = Path(os.environ.get("AZURE_CONFIG_DIR") or "~/.azure").expanduser()
    if not is_set and "account_key" not in options and (folder / "azureProfile.json").is_file():
        options["use_azure_cli"] = True
    return options
