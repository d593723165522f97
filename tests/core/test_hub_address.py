"""Addresses on a hub of models, and the token for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.core.hub_address import HubAddress, hub_endpoint, hub_token, parse_hub_address
from tests.raising import raises

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.mark.parametrize(
    ("text", "address", "below"),
    [
        ("hf://org/name", HubAddress("org/name"), "org/name/resolve/main"),
        ("hf://Org/n.a-m_e@v1.0/", HubAddress("Org/n.a-m_e", "v1.0"), "Org/n.a-m_e/resolve/v1.0"),
        ("hf://o/n@refs/pr/7", HubAddress("o/n", "refs/pr/7"), "o/n/resolve/refs%2Fpr%2F7"),
        ("hf://o/n@feature%2Fa", HubAddress("o/n", "feature/a"), "o/n/resolve/feature%2Fa"),
        (f"hf://o/n@{COMMIT}", HubAddress("o/n", COMMIT), f"o/n/resolve/{COMMIT}"),
    ],
)
def test_a_repository(text: str, address: HubAddress, below: str) -> None:
    assert parse_hub_address(text) == address
    assert parse_hub_address(str(address)) == address
    assert address.https() == f"https://huggingface.co/{below}"
    assert address.pinned == (COMMIT in text)


def test_a_file() -> None:
    address = parse_hub_address(f"hf://o/n@{COMMIT}/a folder/x%#.json", file=True)
    assert address == HubAddress("o/n", COMMIT, "a folder/x%#.json")
    assert address.https().endswith(f"/o/n/resolve/{COMMIT}/a%20folder/x%25%23.json")


@pytest.mark.parametrize(
    "text",
    [
        "hf://name",
        "hf://org/..",
        "hf://org/a..b",
        "hf://org/a--b",
        "hf://../name",
        "hf://org/name@",
        "hf://org/name@../x",
        "hf://org/name@a%2F..%2Fb",
        "hf://org/name@a%0Ab",
        "hf://org/name@v1@v2",
        "hf://org/name/config.json",
        "hf://datasets/org/name",
        "hf://datasets/name",
        "hf://user:password@org/name",
        "hf://org/name?x=1",
        "https://huggingface.co/org/name",
        "",
        "hf://" + "a" * 100_000,
    ],
)
def test_no_repository(text: str) -> None:
    with raises("M860", match="hf://ORG/NAME"):
        parse_hub_address(text)


@pytest.mark.parametrize("asked", ["==1.0", ">=1", "~=1.0", "!=2", "<3"])
def test_a_version(asked: str) -> None:
    with raises("M860", match="no versions to choose from"):
        parse_hub_address(f"hf://org/name{asked}")


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/x", "a//b", "C:/x", "a\\b", "a\nb"])
def test_no_file(path: str) -> None:
    with raises("M860", match="hf://ORG/NAME@COMMIT/FILE"):
        parse_hub_address(f"hf://o/n@{COMMIT}/{path}", file=True)


@pytest.mark.parametrize("text", ["ftp://hub", "hub.example", "https://u:p@hub", "https://h:x"])
def test_an_endpoint_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", text)
    with raises("M860", match="HF_ENDPOINT"):
        hub_endpoint()


def test_the_token_is_the_one_that_hf_auth_login_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    assert hub_token() is None
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_filed\n")
    assert hub_token() == "hf_filed"
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    assert constants.HF_TOKEN_PATH.endswith("hf/token")
    monkeypatch.setenv("HF_TOKEN", "hf_set")
    assert hub_token() == "hf_set"
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert hub_token() is None
    monkeypatch.delenv("HF_HUB_DISABLE_IMPLICIT_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf set with\tmore")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    assert hub_token() is None
