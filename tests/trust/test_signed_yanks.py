"""A yank that is signed as the release is: by it alone an update goes back to an older release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modpkg.core import bounds
from modpkg.core.digests import parse_digest
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import signatures_path
from modpkg.trust.bundle import sign_statement
from modpkg.trust.private_key import key_path, new_key, read_key
from modpkg.trust.signatures import signed_yanks, signers_of
from modpkg.trust.statement import yank_statement
from modpkg.trust.successors import check_may_yank, sign_yank
from tests.cli.test_everywhere import run
from tests.command import check_shape
from tests.raising import raises
from tests.trust.test_signed_releases import Capture, app, keys, release, signers
from tests.trust.test_successors import versions

__all__ = ["app", "keys"]


def test_an_update_follows_a_signed_yank_and_its_end(
    app: Path, home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    for version in ("1.0", "1.1"):
        release(capfd, tmp_path, version, "ada")
    assert run(capfd, "lock")[0] == 0
    status, out, err = run(capfd, "yank", "words==1.1", "--reason", "bad")
    assert (status, "--sign KEY" in out) == (0, True), err
    assert run(capfd, "lock")[0] == 0  # it is locked, and stays
    assert "error[M416]" in run(capfd, "lock", "--upgrade")[2]
    assert versions(app) == ["1.1"]
    status, out, _ = run(capfd, "yank", "words==1.1", "--reason", "bad", "--sign", "ada")
    assert (status, "--sign KEY" in out) == (0, False)
    assert run(capfd, "lock", "--upgrade")[0] == 0
    assert (versions(app), signers(app)) == (["1.0"], {"words": keys["ada"]})
    assert run(capfd, "yank", "words==1.1", "--undo", "--sign", "ada")[0] == 0
    assert run(capfd, "lock", "--upgrade")[0] == 0
    assert versions(app) == ["1.1"]
    assert run(capfd, "yank", "words==1.1", "--reason", "bad")[0] == 0
    assert "error[M416]" in run(capfd, "lock", "--upgrade")[2]  # its end is the last that is signed
    assert run(capfd, "yank", "words==1.1", "--reason", "bad", "--sign", "ada")[0] == 0
    assert run(capfd, "lock", "--upgrade")[0] == 0
    assert versions(app) == ["1.0"]
    registry = Registry(str(home / "registry"))
    line = registry.line("words", "1.1")
    numbers = [(one.said.number, one.said.yanked) for one in signed_yanks(registry, line)]
    assert numbers == [(1, "bad"), (2, None), (3, "bad")]
    found = signers_of(registry, line)
    assert (list(map(str, found.found)), found.refused) == ([keys["ada"]], ())


def test_no_reason_is_signed_that_readers_would_not_take(
    app: Path, home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    registry = home / "registry"
    before = {path: path.read_bytes() for path in registry.rglob("*") if path.is_file()}
    reason = 2001 * "y"
    status, out, err = run(capfd, "yank", "words==1.0", "--reason", reason, "--sign", "ada")
    assert (status, out, "M475" in err, "at most 2,000" in err) == (1, "", True, True)
    reader, signer = Registry(str(registry)), read_key(key_path("ada"), str)
    line = reader.line("words", "1.0")
    for refused in (reason, "one\ntwo", "a\ud800b"):
        with raises("M475"):
            sign_yank(reader, line, refused, signer)
    for others in (["deprecate"], ["registry", "remove"]):
        assert "M475" in run(capfd, *others, "words==1.0", "--reason", reason)[2]
    assert {path: path.read_bytes() for path in before} == before
    run(capfd, "yank", "words==1.0", "--reason", reason[1:], "--sign", "ada")
    line = Registry(str(registry)).line("words", "1.0")
    (signed,) = signed_yanks(Registry(str(registry)), line)
    assert signed.said.yanked == line.yanked == reason[1:]


def test_of_what_nobody_has_signed_an_index_decides(
    app: Path, tmp_path: Path, capfd: Capture
) -> None:
    for version in ("1.0", "1.1"):
        release(capfd, tmp_path, version)
    assert run(capfd, "lock")[0] == 0
    status, out, err = run(capfd, "yank", "words==1.1", "--json")
    assert (status, json.loads(out)["yanked"], err) == (0, "", "")
    assert run(capfd, "lock", "--upgrade")[0] == 0
    assert versions(app) == ["1.0"]


def test_a_newer_release_of_the_signer_takes_the_place_of_a_yanked_one(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    """That is no step back, whoever has yanked it."""
    for version in ("1.0", "1.1"):
        release(capfd, tmp_path, version, "ada")
    assert run(capfd, "lock")[0] == 0
    release(capfd, tmp_path, "1.2", "ada")
    assert run(capfd, "yank", "words==1.1")[0] == 0
    assert run(capfd, "lock", "--upgrade")[0] == 0
    assert versions(app) == ["1.2"]
    manifest = app / "modpkg.toml"
    manifest.write_text(manifest.read_text().replace('"*"', '"==1.0"'))
    assert run(capfd, "yank", "words==1.2")[0] == 0
    assert run(capfd, "lock")[0] == 0  # its user has asked for it
    assert versions(app) == ["1.0"]


def test_a_yank_that_cannot_be_signed_is_none(
    app: Path, home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    before = (home / "registry/index/words.jsonl").read_bytes()
    assert "error[M549]" in run(capfd, "yank", "words==1.0", "--sign", "lost")[2]
    assert "error[M312]" in run(capfd, "yank", "words==1.1", "--sign", "ada")[2]
    (path,) = (home / "registry" / "signatures").rglob("*.jsonl")
    signed = path.read_bytes()
    path.write_bytes(signed + b"".join(b"%d\n" % one for one in range(63)))
    assert "error[M546]" in run(capfd, "yank", "words==1.0", "--sign", "ada")[2]
    path.write_bytes(signed + b"x" * (bounds.SIGNATURES_BYTES - len(signed) - 1) + b"\n")
    assert "error[M599]" in run(capfd, "yank", "words==1.0", "--sign", "ada")[2]
    assert (home / "registry/index/words.jsonl").read_bytes() == before


def test_an_update_goes_back_to_what_the_key_before_has_signed(
    app: Path, home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    """Who yanks signs that, where the key before stands by it; a registry cannot."""
    for version in ("1.0", "1.1"):
        release(capfd, tmp_path, version, "ada")
    named = ("--from", "ada", "--to", keys["bob"])
    assert run(capfd, "key", "succeed", "words", *named)[0] == 0
    release(capfd, tmp_path, "1.2", "ada")  # who has stolen the key
    release(capfd, tmp_path, "1.3", "bob")
    assert run(capfd, "install")[0] == 0
    registry = Registry(str(home / "registry"))
    yank = ("yank", "words==1.3", "--reason", "bad", "--sign", "bob")
    status, out, err = run(capfd, *yank)
    assert (status, "Signed 1.1," in out) == (0, True), err
    who = {one: [*map(str, signers_of(registry, registry.line("words", one)).found)] for one in
           ("1.0", "1.1", "1.2")}  # fmt: skip
    assert who == {"1.0": [keys["ada"]], "1.1": [keys["ada"], keys["bob"]], "1.2": [keys["ada"]]}
    assert "error[M571]" in run(capfd, "update")[2]  # 1.2 is the newest until somebody removes it
    assert run(capfd, "registry", "remove", "words==1.2", "--reason", "not ours")[0] == 0
    status, out, err = run(capfd, *yank)
    assert (status, "Signed" in out) == (0, False), err
    assert run(capfd, "update")[0] == 0
    assert (versions(app), signers(app)) == (["1.1"], {"words": keys["bob"]})
    assert run(capfd, "verify")[0] == 0
    assert run(capfd, "yank", "words==1.1", "--sign", "bob")[0] == 0
    assert run(capfd, "update")[0] == 0
    assert (versions(app), signers(app)) == (["1.0"], {"words": keys["bob"]})


def test_audit_and_outdated_say_whether_a_yank_is_signed(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    for version in ("1.0", "1.1"):
        release(capfd, tmp_path, version, "ada")
        release(capfd, tmp_path, version, name="plain")
    (app / "modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\nwords = "*"\nplain = "*"\n'
    )
    assert run(capfd, "lock")[0] == 0
    assert run(capfd, "yank", "plain==1.1", "--reason", "bad")[0] == 0
    for sign, said, shown in (
        (
            (),
            "words 1.1 was yanked, which its signer has not signed: bad",
            "yanked, not signed: bad",
        ),
        (("--sign", "ada"), "its signer has signed that: bad", "yanked, signed: bad"),
    ):
        assert run(capfd, "yank", "words==1.1", "--reason", "bad", *sign)[0] == 0
        status, out, err = run(capfd, "audit", "--json")
        document = json.loads(out)
        check_shape(document, "audit")
        yanked = {one["name"]: (one["reason"], one["signed"]) for one in document["yanked"]}
        assert (status, yanked) == (0, {"words": ("bad", bool(sign)), "plain": ("bad", None)})
        assert said in err
        assert "plain 1.1 was yanked: bad" in err
        document = json.loads(run(capfd, "outdated", "--json")[1])
        check_shape(document, "outdated")
        found = {one["name"]: one["yank_signed"] for one in document["modules"]}
        assert found == {"words": bool(sign), "plain": None}
        (words,) = [one for one in document["modules"] if one["name"] == "words"]
        assert words["update"] == ("1.0" if sign else None)  # an update is refused (M416)
        assert ("has not signed" in words["reason"]) == (not sign), words
        assert shown in " ".join(run(capfd, "outdated")[1].split())


@pytest.mark.parametrize("undo", [(), ("--undo",)])
def test_a_yank_that_counts_for_nobody_is_refused(
    undo: tuple[str, ...], home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    """One by a key that has signed nothing of the module, or signs no more, or of no signed one."""

    def refused(code: str, *yank: str) -> None:
        before = folder_bytes(home / "registry")
        status, _, err = run(capfd, "yank", *yank, *undo)
        assert (status, f"error[{code}]" in err) == (1, True), err
        assert folder_bytes(home / "registry") == before

    release(capfd, tmp_path, "1.0", "ada")
    release(capfd, tmp_path, "1.1")
    refused("M578", "words==1.0", "--sign", "bob")
    refused("M578", "words==1.1", "--sign", "ada")
    named = ("--from", "ada", "--to", keys["bob"])
    assert run(capfd, "key", "succeed", "words", *named)[0] == 0
    refused("M575", "words==1.0", "--sign", "ada")
    assert run(capfd, "yank", "words==1.0", "--sign", "bob", *undo)[0] == 0


def test_a_yank_by_another_signer_of_the_module_says_for_whom_it_counts(
    app: Path, home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    for version, key in (("1.0", "bob"), ("1.1", "ada")):
        release(capfd, tmp_path, version, key)
    registry = Registry(str(home / "registry"))
    line = registry.line("words", "1.1")
    with raises("M578", match="is signed by"):
        check_may_yank(registry, line, new_key(tmp_path / "eve.pem", "ed25519", None))
    assert run(capfd, "lock")[0] == 0
    status, _, err = run(capfd, "yank", "words==1.1", "--sign", "bob")
    assert (status, "only where [trust] names " + keys["bob"] in err) == (0, True), err
    assert "error[M416]" in run(capfd, "lock", "--upgrade")[2]
    for key in ("ada", "bob"):
        assert run(capfd, "trust", "add", "words", keys[key])[0] == 0
    assert run(capfd, "lock", "--upgrade")[0] == 0
    assert versions(app) == ["1.0"]


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


@pytest.mark.parametrize("who", ["stranger", "retired", "fellow"])
def test_only_who_signs_for_the_module_uses_up_numbers(
    who: str, home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    """The largest number counts of theirs: a stranger's, or a retired key's, is none of these."""
    release(capfd, tmp_path, "1.0", "bob" if who == "fellow" else "ada")
    release(capfd, tmp_path, "1.1", "ada")
    signer = "ada"
    if who == "retired":
        named = ("--from", "ada", "--to", keys["bob"])
        assert run(capfd, "key", "succeed", "words", *named)[0] == 0
        signer = "bob"
    registry = Registry(str(home / "registry"))
    line = registry.line("words", "1.1")
    digest = parse_digest(line.release)
    new_key(tmp_path / "eve.pem", "ed25519", None)
    by, number = {
        "stranger": (read_key(tmp_path / "eve.pem", lambda: ""), 64),
        "retired": (read_key(key_path("ada"), lambda: ""), 64),
        "fellow": (read_key(key_path("bob"), lambda: ""), 3),
    }[who]
    path = home / "registry" / signatures_path(digest)
    with open(path, "ab") as file:
        statement = yank_statement("words", "1.1", digest, None, number)
        file.write(sign_statement(statement, by) + b"\n")
    for undo, wanted in (((), 1), (("--undo",), 2)):
        status, _, err = run(capfd, "yank", "words==1.1", *undo, "--sign", signer)
        assert status == 0, err
        said = [
            one.said.number
            for one in signed_yanks(Registry(str(home / "registry")), line)
            if str(one.signer) == keys[signer]
        ]
        assert said[-1] == wanted + (3 if who == "fellow" else 0)


def test_after_the_last_number_no_yank_is_signed(
    home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    """A fellow signer has used it, with two signatures in the file."""
    release(capfd, tmp_path, "1.0", "bob")
    release(capfd, tmp_path, "1.1", "ada")
    line = Registry(str(home / "registry")).line("words", "1.1")
    digest = parse_digest(line.release)
    path = home / "registry" / signatures_path(digest)
    statement = yank_statement("words", "1.1", digest, None, bounds.SIGNATURES)
    with open(path, "ab") as file:
        file.write(sign_statement(statement, read_key(key_path("bob"), lambda: "")) + b"\n")
    before = path.read_bytes()
    status, _, err = run(capfd, "yank", "words==1.1", "--sign", "ada")
    assert (status, "error[M577]" in err, keys["bob"] in err) == (1, True, True), err
    assert (path.read_bytes(), "leave --sign out" in err) == (before, True)
    assert run(capfd, "yank", "words==1.1")[0] == 0
    assert Registry(str(home / "registry")).line("words", "1.1").yanked is not None
