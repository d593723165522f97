"""Requests that obstore cannot make, signed as the clouds document it: making a bucket."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import urllib.request
from email.utils import formatdate
from urllib.parse import quote, urlsplit


def put_s3(url: str, key: str, secret: str) -> None:
    """PUT an empty body with AWS Signature Version 4."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{now[:8]}/us-east-1/s3/aws4_request"
    empty = hashlib.sha256().hexdigest()
    parts = urlsplit(url)
    headers = {"host": parts.netloc, "x-amz-content-sha256": empty, "x-amz-date": now}
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    request = f"PUT\n{parts.path}\n\n{lines}\n{names}\n{empty}"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = f"AWS4{secret}".encode()
    for part in (*scope.split("/"), text):
        signature = hmac.digest(signature, part.encode(), "sha256")
    _put(
        url,
        headers
        | {
            "Authorization": f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={names}, "
            f"Signature={signature.hex()}"
        },
    )


def put_azure(url: str, account: str, key: str) -> None:
    """Make a container with Azure's shared key."""
    date, version = formatdate(usegmt=True), "2021-08-06"
    path = urlsplit(url).path
    text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n"
    signature = _azure_signature(key, f"{text}/{account}{path}\nrestype:container")
    headers = {"x-ms-date": date, "x-ms-version": version, "Content-Length": "0"}
    headers["Authorization"] = f"SharedKey {account}:{signature}"
    _put(f"{url}?restype=container", headers)


def azure_reader(account: str, container: str, key: str) -> str:
    """Return a service SAS token that may read and list a container for a day."""
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    expiry = end.strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = ["rl", "", expiry, f"/blob/{account}/{container}", *[""] * 3, "2018-11-09", "c"]
    signature = _azure_signature(key, "\n".join([*fields, *[""] * 6]))
    return f"sp=rl&se={quote(expiry)}&sv=2018-11-09&sr=c&sig={quote(signature, safe='')}"


def _azure_signature(key: str, text: str) -> str:
    digest = hmac.digest(base64.b64decode(key), text.encode(), "sha256")
    return base64.b64encode(digest).decode()


def _put(url: str, headers: dict[str, str]) -> None:
    request = urllib.request.Request(url, headers=headers, method="PUT")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(request, timeout=30).close()
