"""The user's configuration: read strictly, and secrets never repeated."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

import modpkg
from modpkg.manifest.config import StoreAccess, parse_settings, read_settings
from modpkg.manifest.normal_address import normal_address, origin
from tests.raising import raises

REGISTRY = '[registry."https://models.acme.example"]\n'
STORE = '[registry."s3://models"]\n'


def test_without_a_file_nothing_is_set() -> None:
    settings = read_settings()
    assert (dict(settings.registries), settings.max_size) == ({}, None)


def test_all_that_can_be_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    (home / "config.toml").write_text(
        '[registry."https://Models.acme.example:443/"]\n'
        'mirrors = ["https://mirror.acme.example/models", "file:///srv/models"]\n'
        'token-env = "ACME_TOKEN"\n'
        '[registry."https://other.example/x"]\n'
        'username = "ann"\npassword-env = "OTHER_PASSWORD"\n'
        '[registry."s3://models"]\nendpoint = "http://127.0.0.1:9000"\nregion = "eu-1"\n'
        '[store]\nmax-size = "1.5 GB"\n'
    )
    monkeypatch.setenv("ACME_TOKEN", "t0ken")
    monkeypatch.setenv("OTHER_PASSWORD", "pass:wörd")
    settings = read_settings()
    assert settings.max_size == 1_500_000_000
    acme = settings.of("https://models.acme.example")
    assert acme.mirrors == ("https://mirror.acme.example/models", "file:///srv/models")
    assert acme.login is not None
    assert acme.login.authorization() == "Bearer t0ken"
    other = settings.of("https://OTHER.example/x/").login
    assert other is not None
    scheme, _, pair = other.authorization().partition(" ")
    assert (scheme, base64.b64decode(pair).decode()) == ("Basic", "ann:pass:wörd")
    assert settings.of("https://models.acme.example/other").login is None
    assert settings.of("../folder").login is None
    minio = StoreAccess("http://127.0.0.1:9000", "eu-1")
    assert settings.access("s3://models") == settings.access("s3://models/team/a/") == minio
    assert settings.access("s3://models2") == settings.access("/models") == StoreAccess()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[registr]", "c.toml:1: registr is not a key of c.toml; did you mean 'registry'?"),
        ('[registry."models"]', "c.toml:1: registry.*** is not an address"),
        (REGISTRY + 'tokn = "x"', "c.toml:2: {}.tokn is not a key of [{}]; did you mean 'token'?"),
        (REGISTRY + "token = 3", "c.toml:2: {}.token has to be a string, not an integer."),
        (REGISTRY + 'token-env = "s3 cret"', "c.toml:2: {}.token-env has to be the name of an en"),
        (REGISTRY + 'token = "a"\ntoken-env = "B"', "c.toml:3: {}.token-env conflicts with token;"),
        (REGISTRY + 'token = "a"\nusername = "b"', "c.toml:3: {}.username conflicts with a token"),
        (REGISTRY + 'username = "b"', "c.toml:2: {}.username needs the other half; add password-"),
        (REGISTRY + 'password = "b"', "c.toml:2: {}.password needs the other half; add username."),
        (REGISTRY + 'endpoint = "https://x.example"', "c.toml:2: {}.endpoint is for object stores"),
        (STORE + 'endpoint = "s3://x"', ".endpoint is not an address of http or https"),
        (STORE + 'region = "eu 1"', ".region is not the name of a region"),
        (REGISTRY + 'mirrors = "x"', "c.toml:2: {}.mirrors has to be an array, not a string."),
        (REGISTRY + 'mirrors = ["x"]', "c.toml:2: {}.mirrors[0] is not an address"),
        (
            REGISTRY + 'mirrors = [\n"https://m.example",\n"https://M.example/"]',
            "c.toml:4: {}.mirrors[1] is a duplicate; remove it.",
        ),
        (REGISTRY + REGISTRY, "c.toml:2: this is not TOML"),
        (
            REGISTRY + '[registry."https://models.acme.example:443/"]',
            "is set twice, in two spellings of one address; keep one.",
        ),
        ('[registry."file:///srv"]', "c.toml:1: registry.'file:///srv' is a local folder"),
        ('[registry."s3://b"]\ntoken = "x"', "c.toml:2: registry.'s3://b'.token is for http(s) ad"),
        ("[store]\nmax-size = 5", "c.toml:2: store.max-size has to be a string"),
        (
            '[store]\nmax-size = "5 GiB"',
            "c.toml:2: store.max-size is not a size; write it",
        ),
        ('[store]\nmax-size = "0 GB"', "c.toml:2: store.max-size is not a size; write it"),
        ("registry = 3", "c.toml:1: registry has to be a table, not an integer."),
    ],
)
def test_every_mistake_is_reported_with_its_line(text: str, sentence: str) -> None:
    with raises("M110") as caught:
        parse_settings(text, Path("c.toml"))
    assert sentence.format(*["registry.'https://models.acme.example'"] * 2) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '[registry."https://ann:s3cret@models.example"]',
        '[registry."https://s3cret@models.example"]',
        '[registry."https://ann:s3cret@[models.example"]',
        REGISTRY + 'mirrors = ["https://ann:s3cret@models.example"]',
        REGISTRY + 'token = "s3cret\\u0000"',
        REGISTRY + 'token = "s3cret',
        REGISTRY + "token = s3cret",
        REGISTRY + 'token-env = "s3cret-s3cret"',
        REGISTRY + 'token = "s3cret"\nmirrors = 3',
        REGISTRY + 'token-env = "s3cret"',
        REGISTRY + 's3cret = "token"',
        REGISTRY + "token.s3cret = 1",
        REGISTRY + 'mirrors = ["s3cret"]',
        '[registry."u:s3cret@models.example"]',
        '[registry."s3cret"]',
        '[registry."s3cret"]\n[registry."s3cret"]',
        '[registry."https://models.example?sig=s3cret"]\nx = 1',
        '[registries]\nacme = "s3cret"',
        '[registries]\n"s3cret acme" = "https://models.example"',
        '[store]\nmax-size = "s3cret"',
        's3cret = "token"',
    ],
)
def test_a_secret_is_never_repeated(text: str) -> None:
    with raises("M110") as caught:
        for settings in parse_settings(text, Path("c.toml")).registries.values():
            if settings.login is not None:
                settings.login.authorization()
    assert "s3cret" not in str(caught.value)
    assert "c.toml:" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "c.toml:2: {}.token-env names an environment variable ACME that is not set"),
        ("", "that is not set; set it."),
        ("s3 cret", "c.toml:2: {}.token-env has a space or a letter that no token can have."),
    ],
)
def test_an_unusable_variable_is_refused(
    value: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("ACME", value)
    settings = parse_settings(REGISTRY + 'token-env = "ACME"', Path("c.toml"))
    login = settings.of("https://models.acme.example").login
    assert login is not None
    with raises("M110") as caught:
        login.authorization()
    assert sentence.format("registry.'https://models.acme.example'") in str(caught.value)
    assert "s3" not in str(caught.value)


def test_settings_are_shown_without_secrets() -> None:
    text = REGISTRY + 'username = "ann"\npassword = "s3cret"'
    assert "s3cret" not in repr(parse_settings(text, Path("c.toml")))


@pytest.mark.parametrize(
    ("mode", "line", "warned"),
    [
        (0o600, 'token = "t"', False),
        (0o644, 'token = "t"', True),
        (0o640, 'username = "u"\npassword = "t"', True),
        (0o644, 'token-env = "T"', False),
        (0o644, 'username = "u"\npassword-env = "T"', False),
    ],
)
def test_a_secret_readable_by_others_gives_a_warning(
    home: Path, mode: int, line: str, warned: bool
) -> None:
    home.mkdir()
    file = home / "config.toml"
    file.write_text(REGISTRY + line)
    file.chmod(mode)
    warnings: list[str] = []
    read_settings(warnings.append)
    assert [f"chmod 600 {file}" in warning for warning in warnings] == [True] * warned


def test_credentials_go_to_no_other_origin() -> None:
    text = REGISTRY + 'token = "a"\n[registry."https://m.example"]\ntoken = "b"'
    settings = parse_settings(text, Path("c.toml"))
    registry = "https://models.acme.example"

    def sent(mirror: str) -> str | None:
        login = settings.mirror_login(mirror, registry)
        return login.authorization() if login is not None else None

    assert sent("https://models.acme.example:443/mirror") == "Bearer a"
    assert sent("https://m.example/") == "Bearer b"
    for other in (
        "http://models.acme.example",
        "https://models.acme.example:444",
        "https://mirror.models.acme.example",
        "https://models.acme.example.evil.example",
        "file:///srv/models",
    ):
        assert sent(other) is None


def test_addresses_are_compared_in_normal_form() -> None:
    assert origin("http://[::1]/x") == ("http", "::1", 80)
    assert normal_address("S3://Bucket/Prefix/") == "s3://bucket/Prefix"
    assert normal_address("abfs://c@a.dfs.example/p") == "abfs://c@a.dfs.example/p"
    assert normal_address("https://h:99999") == "https://h:99999"
    assert normal_address("a/b/") == "a/b/"


def test_the_example_of_the_docs_is_valid() -> None:
    docs = Path(modpkg.__file__).parents[1] / "docs/configuration.md"
    _, _, rest = docs.read_text().partition("```toml\n")
    settings = parse_settings(rest.partition("```")[0], docs)
    assert len(settings.registries) == 3
    assert settings.max_size == 100_000_000_000
