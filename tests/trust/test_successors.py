"""Who has named a successor: what was signed until then stays good, and nothing is added to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli
from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.registry.reader import Registry
from modpkg.registry.source import FolderSource
from modpkg.trust.private_key import PrivateKey, new_key, read_key
from modpkg.trust.public_key import parse_key
from modpkg.trust.statement import InTotoSubject
from modpkg.trust.successors import (
    NamedSuccessor,
    Successions,
    check_may_name,
    check_may_publish,
    successions_by_index,
)
from tests.cli.test_everywhere import run
from tests.modules import write_module
from tests.raising import raises
from tests.trust.test_signed_releases import Capture, app, keys, release, signers

__all__ = ["app", "keys"]


def succeed(capfd: Capture, old: str, new: str, *more: str) -> dict[str, object]:
    arguments = ("key", "succeed", "words", "--from", old, "--to", new, "--json", *more)
    status, out, err = run(capfd, *arguments)
    assert status == 0, err
    document: dict[str, object] = json.loads(out)
    return document


def versions(app: Path) -> list[str]:
    lock = tomli.loads((app / "modpkg.lock").read_text())
    return [module["version"] for module in lock["module"]]


@pytest.fixture
def chain(app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture) -> dict[str, str]:
    """ada signs 1.0 and 1.1 and names bob, who signs 1.2 and names eve, who signs 1.3."""
    _, out, _ = run(capfd, "key", "new", "eve", "--no-passphrase", "--json")
    keys["eve"] = json.loads(out)["public"]
    release(capfd, tmp_path, "1.0", "ada")
    release(capfd, tmp_path, "1.1", "ada")
    said = succeed(capfd, "ada", keys["bob"])
    assert said["releases"] == ["pkg:modpkg/words@1.1", "pkg:modpkg/words@1.0"]
    release(capfd, tmp_path, "1.2", "bob")
    assert succeed(capfd, "bob", keys["eve"])["releases"] == ["pkg:modpkg/words@1.2"]
    release(capfd, tmp_path, "1.3", "eve")
    return keys


def test_what_was_signed_until_then_is_locked_on_a_new_machine(
    app: Path, chain: dict[str, str], capfd: Capture
) -> None:
    manifest = (app / "modpkg.toml").read_text()
    for version, name in (("1.0", "ada"), ("1.2", "bob"), ("1.3", "eve")):
        (app / "modpkg.toml").write_text(manifest.replace('"*"', f'"=={version}"'))
        (app / "modpkg.lock").unlink(missing_ok=True)
        status, _, err = run(capfd, "lock", "--require-signed")
        assert status == 0, err
        assert signers(app) == {"words": chain[name]}
        (app / "modpkg.toml").write_text(manifest)
        assert run(capfd, "lock", "--upgrade")[0] == 0  # along the chain
        assert (signers(app), versions(app)) == ({"words": chain["eve"]}, ["1.3"])


def test_what_is_signed_since_counts_when_the_next_one_signs_it(
    app: Path, tmp_path: Path, chain: dict[str, str], capfd: Capture
) -> None:
    for version, key in (("1.4", "ada"), ("1.5", "bob")):
        release(capfd, tmp_path, version, key)
        status, _, err = run(capfd, "lock")
        assert (status, "error[M571]" in err, chain[key] in err) == (1, True, True)
    for key in ("bob", "eve"):
        folder = tmp_path / "projects" / "words-1.4"
        assert run(capfd, "publish", str(folder), "--sign", key)[0] == 0
    (app / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nwords = "<=1.4"\n')
    assert run(capfd, "lock")[0] == 0
    assert (signers(app), versions(app)) == ({"words": chain["eve"]}, ["1.4"])


def test_who_has_locked_what_the_successor_signed_learns_that_the_old_key_signs_no_more(
    app: Path, tmp_path: Path, chain: dict[str, str], capfd: Capture
) -> None:
    assert run(capfd, "lock")[0] == 0
    assert (signers(app), versions(app)) == ({"words": chain["eve"]}, ["1.3"])
    release(capfd, tmp_path, "1.4", "ada")
    before = (app / "modpkg.lock").read_bytes()
    for command in (("lock", "--upgrade"), ("update",), ("install", "words==1.4")):
        status, _, err = run(capfd, *command)
        assert (status, "error[M571]" in err, chain["bob"] in err) == (1, True, True), err
        assert (app / "modpkg.lock").read_bytes() == before
    status, _, err = run(capfd, "update", "--accept-changed", "words")
    assert (status, versions(app)) == (0, ["1.4"])
    assert f"named {chain['bob']} as its successor" in err  # what was accepted


def test_a_signer_names_one_successor_and_none_that_signs_no_more(
    chain: dict[str, str], capfd: Capture
) -> None:
    cases = (("ada", "eve", "already"), ("ada", "ada", "one"), ("eve", "ada", "no more"))
    for old, new, said in cases:
        named = ("--from", old, "--to", chain[new])
        status, _, err = run(capfd, "key", "succeed", "words", *named)
        assert (status, "error[M572]" in err, said in err) == (1, True, True), err


def test_more_than_can_be_named_are_left_to_the_next_one(
    app: Path,
    tmp_path: Path,
    keys: dict[str, str],
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So is what was removed: what somebody else had signed with the key, for one."""
    monkeypatch.setattr(bounds, "SUCCEEDED_RELEASES", 1)
    for version in ("1.0", "1.1", "1.2"):
        release(capfd, tmp_path, version, "ada")
    assert run(capfd, "registry", "remove", "words==1.2", "--reason", "not ours")[0] == 0
    said = succeed(capfd, "ada", keys["bob"])
    assert (said["releases"], said["left_out"]) == (["pkg:modpkg/words@1.1"], 1)
    (app / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nwords = "==1.0"\n')
    assert "error[M571]" in run(capfd, "lock")[2]
    folder = tmp_path / "projects" / "words-1.0"
    assert run(capfd, "publish", str(folder), "--sign", "bob")[0] == 0
    assert run(capfd, "lock")[0] == 0
    assert signers(app) == {"words": keys["bob"]}


@pytest.fixture
def three(tmp_path: Path) -> list[PrivateKey]:
    paths = [tmp_path / f"{name}.pem" for name in ("a", "b", "c")]
    for path in paths:
        new_key(path, "ed25519", None)
    return [read_key(path, lambda: "") for path in paths]


def test_statements_in_a_circle_end(three: list[PrivateKey]) -> None:
    a, b, c = (key.public for key in three)
    circle = Successions((NamedSuccessor(a, str(b)), NamedSuccessor(b, str(a))))
    assert circle.follows(str(a), b) == str(b)
    assert circle.follows(str(a), c) is None
    assert circle.rivals(str(a)) is None
    nonsense = Successions((NamedSuccessor(a, "oidc:x"), NamedSuccessor(b, "")))
    assert nonsense.follows(str(a), b) is None
    with raises("M572", match="already"):
        check_may_name(circle, "words", a, c)


def test_all_that_a_key_has_said_of_a_release_has_to_name_it(three: list[PrivateKey]) -> None:
    a, b, c = (key.public for key in three)
    first, second = (InTotoSubject(name, {"sha256": "0"}) for name in ("1", "2"))
    said = Successions(
        (NamedSuccessor(a, str(b), (first,)), NamedSuccessor(a, str(b), (first, second)))
    )
    assert said.disowned(a, first) is None
    assert said.disowned(a, second) == said.named[0]
    assert said.disowned(b, second) is None
    assert said.follows(str(a), b) == str(b)
    several = Successions((*said.named, NamedSuccessor(a, str(c), (first, second))))
    assert several.follows(str(a), b) is None
    assert several.rivals(str(a)) == (str(a), sorted([str(b), str(c)]))


def test_successors_are_asked_for_where_the_index_has_any(
    app: Path,
    home: Path,
    tmp_path: Path,
    keys: dict[str, str],
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    read = FolderSource.read

    def noted(self: FolderSource, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes:
        asked.append(path)
        return read(self, path, most)

    monkeypatch.setattr(FolderSource, "read", noted)
    release(capfd, tmp_path, "1.0", "ada")
    asked.clear()
    assert run(capfd, "lock")[0] == 0
    assert not any(path.startswith("successors/") for path in asked)
    succeed(capfd, "ada", keys["bob"])
    release(capfd, tmp_path, "1.1", "bob")
    lines = Registry(str(home / "registry")).index("words")
    assert [(line.version, line.succeeded) for line in lines] == [("1.0", True), ("1.1", True)]
    (app / "modpkg.lock").unlink()
    asked.clear()
    assert run(capfd, "lock")[0] == 0
    assert "successors/words.jsonl" in asked
    copy = tmp_path / "copy"
    assert run(capfd, "registry", "copy", str(home / "registry"), str(copy), "words==1.0")[0] == 0
    assert [line.succeeded for line in Registry(str(copy)).index("words")] == [True]
    assert (copy / "successors" / "words.jsonl").exists()


def test_a_successor_that_the_index_promises_has_to_be_there(
    app: Path, home: Path, chain: dict[str, str], capfd: Capture
) -> None:
    """A mirror without keys that hides it, where the index is signed; and a killed command."""
    path = home / "registry" / "successors" / "words.jsonl"
    whole = path.read_bytes()
    for data in (b"", b"[" * 10_000, whole[: len(whole) // 3]):
        path.write_bytes(data)
        status, _, err = run(capfd, "lock")
        assert (status, "error[M574]" in err) == (1, True), err
    path.unlink()
    with raises("M574", match="words"):
        successions_by_index(Registry(str(home / "registry")), "words")
    assert not (app / "modpkg.lock").exists()
    path.write_bytes(whole)
    assert run(capfd, "lock")[0] == 0


def test_what_proves_a_module_wants_the_successor_that_the_index_promises(
    app: Path, home: Path, chain: dict[str, str], capfd: Capture
) -> None:
    """Who hides it, and all who sign, keeps what a stolen key has signed."""
    assert run(capfd, "install")[0] == 0
    path = home / "registry" / "successors" / "words.jsonl"
    whole = path.read_bytes()
    for data in (None, b"", b"[" * 10_000):
        path.unlink() if data is None else path.write_bytes(data)
        document = json.loads(run(capfd, "verify", "--json")[1])
        (flaw,) = document["flaws"]
        assert (flaw["code"], flaw["of"]) == ("M574", "words 1.3")
        path.write_bytes(whole)
    index = home / "registry" / "index" / "words.jsonl"
    path.unlink()
    index.write_text(index.read_text().replace(',"succeeded":true', ""))
    assert run(capfd, "verify")[0] == 0  # no signer has named another one, for all that is known


def test_who_publishes_with_a_key_that_signs_no_more_is_warned(
    home: Path, tmp_path: Path, chain: dict[str, str], capfd: Capture
) -> None:
    registry = Registry(str(home / "registry"))
    line = replace(registry.line("words", "1.3"), version="1.4", release=f"sha256:{'0' * 64}")
    with raises("M575", match="signs nothing more"):
        check_may_publish(registry, line, parse_key(chain["ada"]))
    assert check_may_publish(registry, line, parse_key(chain["eve"])) is None


def test_who_publishes_with_another_key_than_before_is_warned(
    home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    folder = write_module(tmp_path / "projects" / "words-1.1", "words", "1.1")
    assert run(capfd, "build", str(folder))[0] == 0
    for more in (("publish", "--dry-run"), ("submit", "-m", "More."), ("publish",)):
        status, _, err = run(capfd, more[0], str(folder), *more[1:], "--sign", "bob")
        said = (keys["ada"] in err, keys["bob"] in err, "modpkg key succeed words" in err)
        assert (status, *said) == (0, True, True, True), err
    # one signature more, and the one that has been named
    status, _, err = run(capfd, "publish", str(folder), "--sign", "ada")
    assert (status, "accept" in err) == (0, False), err
    succeed(capfd, "ada", keys["bob"])
    folder = write_module(tmp_path / "projects" / "words-1.2", "words", "1.2")
    assert run(capfd, "build", str(folder))[0] == 0
    status, _, err = run(capfd, "publish", str(folder), "--sign", "bob")
    assert (status, "accept" in err) == (0, False), err


def test_who_publishes_without_a_signature_after_signed_releases_is_warned(
    home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    folder = write_module(tmp_path / "projects" / "words-1.1", "words", "1.1")
    assert run(capfd, "build", str(folder))[0] == 0
    for more in (("publish", "--dry-run"), ("submit", "-m", "More."), ("publish",)):
        status, _, err = run(capfd, more[0], str(folder), *more[1:])
        assert (status, keys["ada"] in err, "publish --sign" in err) == (0, True, True), err
    # what the warning says to do
    status, out, err = run(capfd, "publish", str(folder), "--sign", "ada")
    assert (status, err, f"Signed 1.1 by {keys['ada']}" in out) == (0, "", True)
    for again in ((), ("--sign", "ada")):
        status, out, err = run(capfd, "publish", str(folder), *again)
        assert (status, err, "Signed" in out) == (0, "", False)


def test_who_has_signed_nothing_names_nobody(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    status, _, err = run(capfd, "key", "succeed", "words", "--from", "bob", "--to", keys["ada"])
    assert (status, "error[M572]" in err, "signed none" in err) == (1, True, True), err
