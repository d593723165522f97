"""Spellings of one address are one registry: for memory, locks and logins."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modpkg.manifest.config import parse_settings
from modpkg.manifest.normal_address import normal_address, origin, origin_text
from modpkg.registry.address import check_address
from modpkg.registry.recorded_address import same_place
from modpkg.trust.known_registry import remembered_folder
from modpkg.trust.log.memory import LogMemory
from tests.raising import raises

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_~", min_size=1, max_size=8)
LABELS = st.text("abcdefgh0123456789", min_size=1, max_size=6)
HOSTS = st.builds(lambda labels: [*labels, "example"], st.lists(LABELS, max_size=2))


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, str]:
    """Return the normal form of an address, and another spelling of it."""
    scheme = draw(st.sampled_from(["http", "https"]))
    host, parts = ".".join(draw(HOSTS)), draw(st.lists(NAMES, max_size=4))
    port = draw(st.sampled_from(["", ":8080"]))
    normal = f"{scheme}://{host}{port}{''.join(f'/{part}' for part in parts)}"
    user = draw(st.sampled_from(["", "ada@", "ada:pw@"]))
    dot = draw(st.sampled_from(["", "."]))
    default = {"http": ":80", "https": ":443"}[scheme]
    port = port or draw(st.sampled_from(["", ":", default]))
    path = ""
    for part in parts:
        path += draw(st.sampled_from(["/", "/./", "/x/../", "/%2E/", "/x/%2e%2e/"]))
        path += "".join(
            draw(st.sampled_from([letter, f"%{ord(letter):02x}", f"%{ord(letter):02X}"]))
            for letter in part
        )
    end = draw(st.sampled_from(["", "/", "/.", "/x/..", "?a=b", "#a"]))
    upper = draw(st.sampled_from([str.upper, str.lower, str.title]))
    return normal, f"{upper(scheme)}://{user}{upper(host)}{dot}{port}{path}{end}"


@given(spellings())
@settings(max_examples=300, deadline=None)
def test_spellings_of_one_address_are_one(pair: tuple[str, str]) -> None:
    normal, other = pair
    assert normal_address(other) == normal == normal_address(normal)
    assert origin(other) == origin(normal)
    assert origin_text(other) == origin_text(normal)
    assert same_place(other, normal, Path("/"))


@given(st.text(max_size=40), st.sampled_from(["https://", "s3://", "hf://", "/", "abfs://", ""]))
@settings(max_examples=300, deadline=None)
def test_a_normal_form_stays_as_it_is(text: str, start: str) -> None:
    try:
        normal = normal_address(start + text)
    except ValueError:  # no URL at all, which `check_address` refuses
        return
    assert normal_address(normal) == normal


@pytest.mark.parametrize(
    "other",
    [
        "http://models.example/acme",
        "https://models.example:444/acme",
        "https://models.example/Acme",
        "https://models.example/acme/x",
        "https://models.example/acme%2Fx",
        "https://models.example/",
        "https://models.example.evil/acme",
        "https://models.example../acme",
        "https://models%2Eexample%2Facme",
    ],
)
def test_other_addresses_stay_others(other: str) -> None:
    assert normal_address(other) != "https://models.example/acme"


def test_what_is_no_plain_host_or_path() -> None:
    assert normal_address("http://[0:0::1]:80/x") == "http://[::1]/x"
    assert normal_address(f"https://h/{quote('é')}") == normal_address("https://h/é")
    assert normal_address("https://Müller.example/x") == "https://xn--mller-kva.example/x"
    assert normal_address("https://h/../../x") == "https://h/x"
    assert normal_address("s3://models/a/../b") == "s3://models/a/../b"
    assert normal_address("/srv/x/../models/") == normal_address("file:///srv/models")


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "0x7f.0x0.0.01",
        "0X7F000001",
        "2130706433",
        "017700000001",
        "%31%32%37.1",
        "１２７。1",
    ],
)
def test_an_ipv4_address_is_one_however_its_numbers_are_written(host: str) -> None:
    assert normal_address(f"http://{host}:80/x") == "http://127.0.0.1/x"


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "[::1]", "[::ffff:127.0.0.1]", "127.0.0.1..", "127.0.0.1.x", "127.0.0.0x1x"),
        *("127.0.0.1.0", "127.0.0.256", "127.0.0.08", "127..1", "4294967296", "9" * 5000),
    ],
)
def test_what_is_not_that_ipv4_address(host: str) -> None:
    address = f"http://{host}/x"
    assert normal_address(address) != "http://127.0.0.1/x"
    assert normal_address(normal_address(address)) == normal_address(address)


def test_a_name_is_one_in_all_ways_to_write_its_letters() -> None:
    for host in ("MÜLLER.example", "M%C3%BCller.example", "mu\u0308ller.example", "xn--mller-kva"):
        host = host if "." in host else f"{host}.example."
        assert normal_address(f"https://{host}") == "https://xn--mller-kva.example"


@pytest.mark.parametrize("host", ["faß.example", "fa%C3%9F.example", "f\u200dass.example"])
def test_no_login_goes_to_a_name_that_is_read_in_two_ways(host: str) -> None:
    """By IDNA of 2003 it is ``fass.example``, by that of 2008 it is another or none."""
    text = '[registry."https://fass.example"]\ntoken-env = "TOKEN"\n'
    found = parse_settings(text, Path("config.toml"))
    assert found.of("https://fass.example").login is not None
    assert found.of(f"https://{host}").login is None
    with raises("M845", match="xn--"):
        check_address(f"https://{host}")


def test_memory_and_logins_are_of_all_spellings(home: Path) -> None:
    one, other = "https://models.example/acme", "HTTPS://Models.example.:443/x/../acme/"
    assert remembered_folder(one) == remembered_folder(other)
    assert LogMemory(one).path == LogMemory(other).path
    text = f'[registry."{other}"]\ntoken-env = "TOKEN"\n'
    assert parse_settings(text, Path("config.toml")).of(one).login is not None


def test_registries_that_are_shown_alike_are_two() -> None:
    """Part of the path of each is a token, which messages leave out."""
    first, second = (f"https://models.example/t/{word * 12}/acme" for word in ("a1", "b2"))
    assert LogMemory(first).path != LogMemory(second).path
