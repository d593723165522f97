"""Credentials: who gets to see them, on wires that are really listened to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modpkg.manifest.config import parse_settings, read_settings
from modpkg.registry.location import default_location
from modpkg.registry.open_source import open_source
from modpkg.registry.source import Source
from tests.raising import raises
from tests.registry.servers import Proxy, Server, make_certificate, redirecting, serve

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/f").write_bytes(b"it")
    return tmp_path / "tree"


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serve(folder) as running:
        yield running


@pytest.fixture
def other(folder: Path) -> Iterator[Server]:
    with serve(folder) as running:
        yield running


@pytest.fixture
def proxy(folder: Path) -> Iterator[Server]:
    with serve(folder, Proxy) as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls") / "localhost.pem")


def logged_in(url: str, line: str = 'token = "s3cret"') -> Source:
    settings = parse_settings(f'[registry."{url}"]\n{line}', Path("c.toml"))
    return open_source(url, None, settings.of(url).login)


def sent(server: Server) -> list[str | None]:
    return [seen.headers.get("authorization") for seen in server.seen]


def test_a_token_is_sent(server: Server) -> None:
    assert logged_in(server.url).read("f") == b"it"
    assert sent(server) == ["Bearer s3cret"]


def test_a_username_and_a_password_are_sent(server: Server) -> None:
    line = 'username = "Aladdin"\npassword = "open sesame"'
    assert logged_in(server.url, line).read("f") == b"it"
    assert sent(server) == ["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]  # the example of RFC 7617


def test_without_a_login_nothing_is_sent(server: Server) -> None:
    open_source(server.url).read("f")
    assert sent(server) == [None]


def test_a_redirect_to_another_origin_gets_no_credentials(server: Server, other: Server) -> None:
    server.fault = redirecting(other.url)
    assert b"".join(logged_in(server.url).stream("f")) == b"it"
    assert sent(server) == ["Bearer s3cret"]
    assert sent(other) == [None]


def test_a_redirect_to_another_origin_and_back_gets_no_credentials(
    server: Server, other: Server
) -> None:
    server.fault = lambda handler, number: number == 0 and redirecting(other.url)(handler, 0)
    other.fault = redirecting(server.url)
    assert logged_in(server.url).read("f") == b"it"
    assert (sent(server)[0], sent(other)) == ("Bearer s3cret", [None])


def test_https_is_trusted_by_its_certificate_only(
    folder: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(folder, certificate=certificate) as secure:
        with raises("M302", match="its certificate is not trusted"):
            logged_in(secure.url).read("f")
        assert secure.seen == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert logged_in(secure.url).read("f") == b"it"
        assert sent(secure) == ["Bearer s3cret"]


def test_https_is_not_redirected_to_plain_http(
    folder: Path, server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serve(folder, certificate=certificate) as secure:
        secure.fault = redirecting(server.url)
        with raises("M302", match="f is a redirect loop, or redirects from https to"):
            logged_in(secure.url).read("f")
    assert server.seen == []


@pytest.mark.parametrize("url", ["http://models.example", "http://10.0.0.1:80", "http://localhos"])
def test_nothing_is_sent_in_clear(url: str) -> None:
    with raises("M315", match="are not sent over plain http") as caught:
        logged_in(url).read("f")
    assert "s3cret" not in str(caught.value)


def test_nothing_is_sent_in_clear_to_a_proxy(
    server: Server, proxy: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    with raises("M315"):
        logged_in(server.url).read("f")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert logged_in(server.url).read("f") == b"it"
    assert (sent(server), proxy.seen) == (["Bearer s3cret"], [])


@pytest.mark.parametrize("status", [401, 403])
def test_rejected_credentials_are_an_error_that_does_not_show_them(
    server: Server, home: Path, status: int
) -> None:
    def fault(handler: object, number: int) -> bool:
        handler.answer(status, b"s3cret is wrong")  # type: ignore[attr-defined]
        return True

    server.fault = fault
    with raises("M314") as caught:
        logged_in(server.url).read("f")
    sentence = f"rejects the credentials for f ({status}); correct them in {home}/config.toml."
    assert sentence in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_rejected_token_of_the_environment_is_corrected_there(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODPKG_TOKEN", "modpkg_" + "0" * 40)
    monkeypatch.setenv("MODPKG_REGISTRY", server.url)

    def fault(handler: object, number: int) -> bool:
        handler.answer(401)  # type: ignore[attr-defined]
        return True

    server.fault = fault
    with raises("M314", match="correct MODPKG_TOKEN"):
        open_source(server.url, None, read_settings().of(server.url).login).read("f")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://ann:s3cret@models.example/x", "https://models.example/x"),
        ("http://s3cret@models.example", "http://models.example"),
    ],
)
def test_an_address_with_a_secret_in_it_is_refused(address: str, shown: str) -> None:
    with raises("M316") as caught:
        default_location(None, address)
    assert f"The address of {shown} contains" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "used"),
    [
        (["HTTP_PROXY"], True),
        (["http_proxy"], True),
        (["ALL_PROXY"], True),
        (["HTTPS_PROXY"], False),
        (["HTTP_PROXY", "NO_PROXY=127.0.0.1"], False),
        (["HTTP_PROXY", "no_proxy=127.0.0.0/8"], False),
        (["HTTP_PROXY", "NO_PROXY=models.example"], True),
    ],
)
def test_a_proxy_of_the_environment_is_used(
    server: Server,
    proxy: Server,
    variables: list[str],
    used: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for each in variables:
        name, _, value = each.partition("=")
        monkeypatch.setenv(name, value or proxy.url)
    source = open_source(server.url)
    assert source.read("f") == b"it"
    assert b"".join(source.stream("f", 1, 2)) == b"t"
    assert proxy.paths() == [f"{server.url}/f"] * 2 * used
    assert server.paths() == ["/f"] * 2


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_https_goes_through_a_tunnel_of_the_proxy(
    folder: Path,
    proxy: Server,
    certificate: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv(name, proxy.url)
    with serve(folder, certificate=certificate) as secure:
        assert logged_in(secure.url).read("f") == b"it"
        assert sent(secure) == ["Bearer s3cret"]
        assert [(seen.method, seen.path) for seen in proxy.seen] == [
            ("CONNECT", secure.url.removeprefix("https://"))
        ]


def test_an_unreachable_proxy_is_an_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://ann:s3cret@127.0.0.1:1")
    with raises("M302") as caught:
        open_source(server.url).read("f")
    assert "s3cret" not in str(caught.value)
    assert server.seen == []
