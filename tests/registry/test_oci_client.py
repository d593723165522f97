"""What an OCI registry may answer, and what is sent to it, and to nobody else."""

from __future__ import annotations

import base64
import gzip
import json
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from modpkg.core import bounds
from modpkg.core.oci_address import parse_oci_address
from modpkg.registry import oci_login, oci_requests, request_tries
from modpkg.registry.oci_client import OciClient
from modpkg.registry.oci_mounts import known_sources, note_pushed
from modpkg.registry.oci_requests import OciRequests
from tests.raising import raises
from tests.registry.oci_server import Asked, FakeRegistry, Reply, digest_of, fake_registry

DATA = bytes(range(256)) * 2000
DIGEST = digest_of(DATA)
BLOB = f"/v2/team/model/blobs/{DIGEST}"
UPLOADS = "/v2/team/model/blobs/uploads/"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeRegistry]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setattr(request_tries, "_PAUSE", 0.001)
    with fake_registry() as server:
        yield server


def log_in(tmp_path: Path, **config: Any) -> None:
    (tmp_path / "docker").mkdir(exist_ok=True)
    (tmp_path / "docker/config.json").write_text(json.dumps(config))


def pair(user: str = "ann", secret: str = "s3cret") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode()}


def client(fake: FakeRegistry, *, writes: bool = False) -> OciClient:
    return OciClient(parse_oci_address(fake.address), writes=writes)


def read(fake: FakeRegistry, start: int = 0) -> bytes:
    return b"".join(client(fake).chunks(DIGEST, len(DATA), start))


def push(fake: FakeRegistry) -> bool:
    return client(fake, writes=True).push_blob(DIGEST, len(DATA), lambda at: iter((DATA[at:],)))


@pytest.mark.parametrize(
    "text",
    [
        "models.example/team/chat",
        "oci://models.example",
        "oci://models.example/Team/chat",
        "oci://models.example/team/../chat",
        "oci://models.example/team//chat",
        "oci://models.example:99999/team/chat",
        "oci://ann:pw@models.example/team/chat",
        "oci://models.example/team/chat:" + "x" * 129,
        "oci://models.example/team/chat@sha256:beef",
        "oci://models.example/team/chat?x=1",
        "oci://models.example/" + "a" * 256,
        "oci://[::zz]/team/chat",
        "oci://models.example/" + "a/" * 3000 + "b",
    ],
)
def test_no_address(text: str) -> None:
    with raises("M891"):
        parse_oci_address(text)


def test_addresses() -> None:
    digest = "sha256:" + "0" * 64
    for text in (
        "oci://models.example/chat",
        "oci://models.example:5000/team/chat_a.b-c:1.0",
        f"oci://[::1]:5000/team/chat:1@{digest}",
        "oci+http://registry.cluster.local/team/chat:1",
    ):
        assert str(parse_oci_address(text)) == text
    assert parse_oci_address("oci://a.example/b").origin == "https://a.example"
    assert parse_oci_address("oci://[::1]:5000/b").origin == "http://[::1]:5000"
    assert parse_oci_address("oci+http://a.example/b").origin == "http://a.example"
    hub = parse_oci_address("oci://docker.io/chat")
    assert (hub.origin, hub.repository) == ("https://registry-1.docker.io", "library/chat")


def test_a_blob_is_read_on_where_it_broke_off(fake: FakeRegistry) -> None:
    assert fake.serve(DATA) == DIGEST

    def broken(asked: Asked) -> Reply:
        start = int((asked.headers.get("Range") or "bytes=0-")[6:-1])
        told = {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"} if start else {}
        whole = {"Content-Length": str(len(DATA) - start), **told}
        return (206 if start else 200), whole, DATA[start : start + 200_000]

    fake.answers["GET", BLOB] = broken
    assert read(fake) == DATA
    assert [one.headers.get("Range") for one in fake.asked] == [
        None,
        "bytes=200000-",
        "bytes=400000-",
    ]


def test_a_registry_without_ranges(fake: FakeRegistry) -> None:
    fake.serve(DATA)
    assert read(fake, 1000) == DATA[1000:]


def test_no_more_than_was_named_is_read(fake: FakeRegistry) -> None:
    fake.on("GET", BLOB, (200, {}, DATA * 3))
    assert read(fake) == DATA


def test_a_compressed_answer_is_refused_at_once(fake: FakeRegistry) -> None:
    fake.on("GET", BLOB, (200, {"Content-Encoding": "gzip"}, gzip.compress(DATA)))
    with raises("M892", match="gzip"):
        read(fake)
    assert [one.headers["Accept-Encoding"] for one in fake.asked] == ["identity"]


def test_a_full_registry(fake: FakeRegistry) -> None:
    accepting(fake)
    fake.on("PATCH", f"{UPLOADS}one", (507, {}, b""))
    with raises("M892", match="full"):
        push(fake)
    assert fake.count("PATCH") == 1


def test_a_proxy_that_cannot_be_reached(
    fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    address = parse_oci_address("oci://models.example/team/chat:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://ann:pw@127.0.0.1:1")
    with raises("M892", match="the proxy 127.0.0.1:1, which HTTPS_PROXY names, cannot be reached"):
        OciClient(address).has_blob(DIGEST, 1)
    monkeypatch.setenv("HTTPS_PROXY", fake.url)
    with raises("M892", match="which HTTPS_PROXY names, does not lead there"):
        OciClient(address).has_blob(DIGEST, 1)


def test_another_part_than_asked_for(fake: FakeRegistry) -> None:
    fake.on("GET", BLOB, (206, {"Content-Range": "bytes 5-9/10"}, b"hello"))
    with raises("M892", match="another part"):
        read(fake, 1000)


def test_a_blob_is_gone(fake: FakeRegistry) -> None:
    with raises("M862", match=DIGEST):
        read(fake)


def test_it_is_asked_again_when_it_says(
    fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    busy = (429, {"Retry-After": "0"}, b"")
    fake.on("HEAD", BLOB, busy, (503, {}, b""), (200, {"Content-Length": str(len(DATA))}, b""))
    assert client(fake).has_blob(DIGEST, len(DATA))
    monkeypatch.setattr(request_tries.time, "sleep", slept.append)
    fake.on("HEAD", BLOB, (429, {"Retry-After": "120"}, b""))
    with raises("M892", match="429"):
        client(fake).has_blob(DIGEST, len(DATA))
    assert slept == [120, 120]  # five minutes in all
    fake.asked.clear()
    fake.on("HEAD", BLOB, (429, {"Retry-After": "9999"}, b""))
    with raises("M892", match="429.* 9999 s"):
        client(fake).has_blob(DIGEST, len(DATA))
    assert fake.count("HEAD") == 1
    fake.on("HEAD", BLOB, (500, {}, b""))
    with raises("M892", match="500"):
        client(fake).has_blob(DIGEST, len(DATA))
    assert fake.count("HEAD") == 1 + request_tries.RETRIES + 1


def test_what_is_there_is_not_sent(fake: FakeRegistry) -> None:
    fake.on("HEAD", BLOB, (200, {"Content-Length": str(len(DATA))}, b""))
    assert not push(fake)
    assert fake.count("POST") == 0


def accepting(fake: FakeRegistry, location: str = "") -> None:
    """Accept uploads, and answer where they go on."""
    place = location or f"{UPLOADS}one?state=a%2Fb"
    fake.on("POST", UPLOADS, (202, {"Location": place}, b""))
    fake.on("PATCH", f"{UPLOADS}one", (202, {"Location": f"{UPLOADS}two?state=c"}, b""))
    fake.on("PUT", f"{UPLOADS}two", (201, {"Docker-Content-Digest": DIGEST}, b""))


def test_a_push(fake: FakeRegistry) -> None:
    accepting(fake)
    assert push(fake)
    assert [(one.method, one.path) for one in fake.asked] == [
        ("HEAD", BLOB),
        ("POST", UPLOADS),
        ("PATCH", f"{UPLOADS}one?state=a%2Fb"),
        ("PUT", f"{UPLOADS}two?state=c&digest=sha256%3A{DIGEST[7:]}"),
    ]
    assert fake.asked[2].body == DATA


def test_a_push_goes_on_where_it_broke_off(fake: FakeRegistry) -> None:
    accepting(fake)
    got: list[int] = []

    def first(path: str, take: Any) -> bytes | None:
        if got:
            return None
        got.append(150_000)
        part: bytes = take(150_000)
        return part

    fake.take = first
    held = {"Range": "0-149999", "Location": f"{UPLOADS}one?state=again"}
    fake.on("GET", f"{UPLOADS}one", (204, held, b""))
    assert push(fake)
    parts = [one for one in fake.asked if one.method == "PATCH"]
    assert [len(one.body) for one in parts] == [150_000, len(DATA) - 150_000]
    assert b"".join(one.body for one in parts) == DATA
    assert parts[1].path == f"{UPLOADS}one?state=again"
    assert parts[1].headers["Content-Range"] == f"150000-{len(DATA) - 1}"


def test_a_push_begins_again_where_nothing_was_kept(fake: FakeRegistry) -> None:
    accepting(fake)
    left = [True]

    def first(path: str, take: Any) -> bytes | None:
        return bytes(take(1000)) if left and left.pop() else None

    fake.take = first
    assert push(fake)
    assert [one.method for one in fake.asked].count("POST") == 2


def test_a_mount(fake: FakeRegistry) -> None:
    fake.on("POST", UPLOADS, (201, {}, b""))
    one = client(fake, writes=True)
    one.mount_from({DIGEST: "team/other"})
    assert not one.push_blob(DIGEST, len(DATA), lambda at: iter((DATA[at:],)))
    assert parse_qs(urlsplit(fake.asked[-1].path).query) == {
        "mount": [DIGEST],
        "from": ["team/other"],
    }
    accepting(fake)  # which knows no mounts
    assert one.push_blob(DIGEST, len(DATA), lambda at: iter((DATA[at:],)))
    fake.on("POST", UPLOADS, (403, {}, b""), (202, {"Location": f"{UPLOADS}one"}, b""))
    assert one.push_blob(DIGEST, len(DATA), lambda at: iter((DATA[at:],)))


def test_what_was_pushed_is_noted(home: Path) -> None:
    first, second = (parse_oci_address(f"oci://a.example/{name}") for name in ("one", "two"))
    assert known_sources(first) == {}
    note_pushed(first, [DIGEST])
    assert known_sources(first) == {}
    assert known_sources(second) == {DIGEST: "one"}
    assert known_sources(parse_oci_address("oci://b.example/two")) == {}
    for number in range(bounds.OCI_SOURCES):
        note_pushed(parse_oci_address(f"oci://a.example/r{number}"), [])
    assert known_sources(second) == {}
    (home / "exports/pushed.json").write_bytes(b"[")
    assert known_sources(second) == {}
    note_pushed(first, [DIGEST])
    assert known_sources(second) == {DIGEST: "one"}


def test_an_upload_elsewhere(fake: FakeRegistry) -> None:
    accepting(fake, "http://127.0.0.1:1/uploads/one")
    with raises("M892", match="to another place, 127.0.0.1:1"):
        push(fake)
    fake.on("POST", UPLOADS, (202, {}, b""))
    with raises("M892", match="where an upload goes on"):
        push(fake)


def test_other_bytes_came_there(fake: FakeRegistry) -> None:
    accepting(fake)
    other = "sha256:" + "0" * 64
    fake.on("PUT", f"{UPLOADS}two", (201, {"Docker-Content-Digest": other}, b""))
    with raises("M893", match=other):
        push(fake)
    body = b'{"errors": [{"code": "DIGEST_INVALID"}]}'
    fake.on("PUT", f"{UPLOADS}two", (400, {}, body))
    with raises("M893", match="another digest"):
        push(fake)


def test_a_refusal_names_its_code(fake: FakeRegistry) -> None:
    body = b'{"errors": [{"code": "DENIED", "message": "\\u001b[31m<b>"}]}'
    fake.on("POST", UPLOADS, (403, {}, body))
    with raises("M892", match=r"push to team/model \(403, DENIED\)"):
        push(fake)
    fake.on("POST", UPLOADS, (405, {}, b'{"errors": [{"code": "UNSUPPORTED"}]}'))
    with raises("M892", match="405, UNSUPPORTED"):
        push(fake)


def test_a_manifest_with_another_digest(fake: FakeRegistry) -> None:
    fake.serve(b"{}", kind="manifests")
    pinned = parse_oci_address(f"oci://127.0.0.1:{fake.port}/team/model@{DIGEST}")
    fake.on("GET", f"/v2/team/model/manifests/{DIGEST}", (200, {}, b"{}"))
    assert client(fake).manifest()[0] == b"{}"
    with raises("M893", match="the manifest"):
        OciClient(pinned).manifest()


def test_an_endless_manifest(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "OCI_MANIFEST_BYTES", 1000)
    fake.serve(b" " * 1001, kind="manifests")
    with raises("M892", match="over 1000 bytes"):
        client(fake).manifest()


def test_where_a_login_goes(fake: FakeRegistry, tmp_path: Path) -> None:
    """A token and a password go to the registry, and never where it redirects."""
    log_in(tmp_path, auths={f"127.0.0.1:{fake.port}": pair()})
    with fake_registry() as storage:
        storage.on("GET", "/bucket/blob", (200, {}, DATA))
        realm = f'Bearer realm="{fake.url}/token?a=b",service="s",scope="repository:x:delete"'

        def blob(asked: Asked) -> Reply:
            if asked.headers.get("Authorization") != "Bearer of-the-registry":
                return 401, {"WWW-Authenticate": realm}, b""
            return 307, {"Location": f"{storage.url}/bucket/blob"}, b""

        fake.answers["GET", BLOB] = blob
        fake.on("GET", "/token", (200, {}, b'{"access_token": "of-the-registry"}'))
        assert read(fake) == DATA
        assert [one.headers.get("Authorization") for one in storage.asked] == [None]
        (token,) = (one for one in fake.asked if one.path.startswith("/token"))
        assert token.headers["Authorization"] == "Basic " + pair()["auth"]
        assert parse_qs(urlsplit(token.path).query) == {
            "a": ["b"],
            "service": ["s"],
            "scope": ["repository:team/model:pull"],
        }


def test_an_identity_token(fake: FakeRegistry, tmp_path: Path) -> None:
    log_in(tmp_path, auths={f"http://127.0.0.1:{fake.port}/v1/": {"identitytoken": "renewing"}})
    challenge = {"WWW-Authenticate": f'Bearer realm="{fake.url}/token",service="s"'}
    fake.on("POST", UPLOADS, (401, challenge, b""), (202, {"Location": f"{UPLOADS}one"}, b""))
    fake.on("PATCH", f"{UPLOADS}one", (202, {"Location": f"{UPLOADS}one"}, b""))
    fake.on("PUT", f"{UPLOADS}one", (201, {}, b""))
    fake.on("POST", "/token", (200, {}, b'{"token": "t"}'))
    assert push(fake)
    (token,) = (one for one in fake.asked if one.path == "/token")
    assert parse_qs(token.body.decode()) == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["renewing"],
        "service": ["s"],
        "scope": ["repository:team/model:pull,push"],
        "client_id": ["modpkg"],
    }


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, b"", "does not accept this login"),
        (200, b"[]", "gives none"),
        (200, b'{"token": "a\\r\\nX: y"}', "gives none"),
        (302, b"", "gives none"),
    ],
)
def test_no_token(
    status: int, body: bytes, reason: str, fake: FakeRegistry, tmp_path: Path
) -> None:
    log_in(tmp_path, auths={f"127.0.0.1:{fake.port}": pair()})
    fake.on("GET", "/token", (status, {"Location": f"{fake.url}/elsewhere"}, body))
    challenge = {"WWW-Authenticate": f'Bearer realm="{fake.url}/token"'}
    fake.on("HEAD", BLOB, (401, challenge, b""))
    with raises("M892", match=reason):
        client(fake).has_blob(DIGEST, 1)
    assert fake.count("GET", "/elsewhere") == 0


def test_a_token_is_renewed(fake: FakeRegistry) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{fake.url}/token"'}
    fake.on("GET", "/token", (200, {}, b'{"token": "one"}'), (200, {}, b'{"token": "two"}'))
    valid = ["one"]

    def blob(asked: Asked) -> Reply:
        known = asked.headers.get("Authorization") == f"Bearer {valid[0]}"
        return (200, {"Content-Length": "1"}, b"") if known else (401, challenge, b"")

    fake.answers["HEAD", BLOB] = blob
    one = client(fake)
    assert one.has_blob(DIGEST, 1)
    valid[0] = "two"
    assert one.has_blob(DIGEST, 1)
    assert fake.count("GET", "/token") == 2


def test_no_redirect_into_a_private_network() -> None:
    requests = OciRequests(parse_oci_address("oci://models.example/team/chat"), writes=False)
    requests._check_reach("models.example", [ip_address("8.8.8.8")])
    requests._check_reach("storage.example", [ip_address("1.1.1.1")])
    for private in ("10.0.0.1", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fd00::1"):
        with raises("M892", match="private network"):
            requests._check_reach("storage.example", [ip_address("1.1.1.1"), ip_address(private)])
    requests._check_reach("models.example", [ip_address("10.0.0.9")])
    requests._check_reach("storage.example", [ip_address("10.0.0.1")])
    for local in ("169.254.169.254", "::ffff:169.254.169.254", "127.0.0.1", "64:ff9b::a9fe:1"):
        with raises("M892", match="private network"):
            requests._check_reach("metadata.example", [ip_address(local)])


@pytest.mark.parametrize(
    "url",
    ["http://models.example/a", "file:///etc/passwd", "https://a:b@c.example/", "https:///x"],
)
def test_no_redirect_to_what_is_not_asked(url: str) -> None:
    requests = OciRequests(parse_oci_address("oci://models.example/team/chat"), writes=False)
    with raises("M892"):
        requests._checked(url)


@pytest.mark.parametrize(
    "location",
    ["http://[", "http://[x]/", "http://h:99999/", "//", "http://h:x/", "\x00", "http://a@b/c", ""],
)
def test_locations_that_are_none(location: str, fake: FakeRegistry) -> None:
    fake.on("GET", BLOB, (307, {"Location": location}, b""))
    with raises("M892", "M862"):
        read(fake)
    fake.on("POST", UPLOADS, (202, {"Location": location}, b""))
    with raises("M892"):
        push(fake)
    challenge = {"WWW-Authenticate": f'Bearer realm="{location}",service="s"'}
    fake.on("HEAD", BLOB, (401, challenge, b""))
    with raises("M892"):
        client(fake).has_blob(DIGEST, 1)


def test_no_login_over_plain_http(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    basic = {"WWW-Authenticate": 'Basic realm="x"'}
    fake.on("HEAD", BLOB, (401, basic, b""))
    login = oci_login.OciLogin("ann", "s3cret")
    monkeypatch.setattr(oci_requests, "login_of", lambda host: login)
    monkeypatch.setattr(oci_requests, "is_private", lambda url: False)
    with raises("M892", match="without TLS"):
        client(fake).has_blob(DIGEST, 1)
    bearer = {"WWW-Authenticate": f'Bearer realm="{fake.url}/token"'}
    fake.on("HEAD", BLOB, (401, bearer, b""))
    with raises("M892", match="without TLS"):
        client(fake).has_blob(DIGEST, 1)
    assert all("Authorization" not in one.headers for one in fake.asked)


def test_no_such_host(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unknown(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with raises("M892", match="cannot be resolved; correct the address"):
        OciClient(parse_oci_address("oci://nowhere.example/a")).manifest()
    assert asked == ["nowhere.example"]


def test_a_redirect_loop(fake: FakeRegistry) -> None:
    fake.on("GET", BLOB, (307, {"Location": BLOB}, b""))
    with raises("M892", match="loop"):
        read(fake)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("models.example", True),
        ("https://models.example", True),
        ("https://models.example/v2/", True),
        ("other.example", False),
        ("models.example.evil.example", False),
    ],
)
def test_whose_login_it_is(
    key: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    assert oci_login.login_of("models.example") is None
    log_in(tmp_path, auths={key: pair("ann", "with:colon")}, HttpHeaders={"a": "b"})
    login = oci_login.login_of("models.example")
    assert (login is not None) == found
    assert login is None or (login.user, login.secret) == ("ann", "with:colon")
    log_in(tmp_path, auths={"https://index.docker.io/v1/": pair()})
    assert oci_login.login_of("docker.io") is not None


def test_a_damaged_file_of_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    log_in(tmp_path, auths={"models.example": {"auth": "%%"}})
    with raises("M892", match="is damaged"):
        oci_login.login_of("models.example")
    log_in(tmp_path, auths=[1])
    with raises("M892", match="cannot be read"):
        oci_login.login_of("models.example")


HELPER = """#!/bin/sh
read -r host
case "$1 $host" in
  "get models.example") echo '{"ServerURL": "x", "Username": "ann", "Secret": "s3cret"}';;
  "get token.example") echo '{"ServerURL": "x", "Username": "<token>", "Secret": "renewing"}';;
  "get none.example") echo 'credentials not found in native keychain'; exit 1;;
  *) echo broken; exit 1;;
esac
"""


@pytest.mark.skipif(os.name == "nt", reason="a script of a shell")
def test_a_credential_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    program = tmp_path / "bin/docker-credential-own"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    log_in(tmp_path, credHelpers={"models.example": "own", "x.example": "../own"}, credsStore="own")
    login = oci_login.login_of("models.example")
    assert login == oci_login.OciLogin("ann", "s3cret")
    login = oci_login.login_of("token.example")
    assert login == oci_login.OciLogin("<token>", "renewing", is_token=True)
    assert oci_login.login_of("none.example") is None
    with raises("M892", match="gives no login"):
        oci_login.login_of("broken.example")
    with raises("M892", match="not installed"):
        oci_login.login_of("x.example")
    monkeypatch.chdir(program.parent)
    monkeypatch.setenv("PATH", ".")
    with raises("M892", match="not installed"):
        oci_login.login_of("models.example")
