"""Who may sign for a name: recorded on first use, and held to from then on."""

from __future__ import annotations

import getpass
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli

from tests.cli.test_everywhere import run
from tests.modules import publish_collection, write_module

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def app(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An app that requires ``words``; nothing is published or locked yet."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nwords = "*"\n')
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def keys(home: Path, capfd: Capture) -> dict[str, str]:
    """Two keys of one user: their signers by name."""
    made = {}
    for name in ("ada", "bob"):
        status, out, _ = run(capfd, "key", "new", name, "--no-passphrase", "--json")
        made[name] = json.loads(out)["public"]
        assert status == 0
    return made


def release(
    capfd: Capture, tmp_path: Path, version: str, key: str | None = None, name: str = "words"
) -> None:
    folder = write_module(tmp_path / "projects" / f"{name}-{version}", name, version)
    assert run(capfd, "build", str(folder))[0] == 0
    sign = [] if key is None else ["--sign", key]
    status, _, err = run(capfd, "publish", str(folder), "--allow-breaking", "a test", *sign)
    assert status == 0, err


def signers(app: Path) -> dict[str, str]:
    lock = tomli.loads((app / "modpkg.lock").read_text())
    return {module["name"]: module.get("signer", "") for module in lock["module"]}


def test_the_lock_records_who_signed_and_holds_to_it(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    assert run(capfd, "lock")[0] == 0
    assert signers(app) == {"words": keys["ada"]}
    release(capfd, tmp_path, "1.1", "ada")
    assert run(capfd, "update")[0] == 0
    before = (app / "modpkg.lock").read_bytes()
    for version, key, who in (("1.2", "bob", keys["bob"]), ("1.3", None, "nobody")):
        release(capfd, tmp_path, version, key)
        status, _, err = run(capfd, "update", "words")
        assert (status, "error[M544]" in err, keys["ada"] in err, who in err) == (1, *[True] * 3)
        assert (app / "modpkg.lock").read_bytes() == before
    status, out, _ = run(capfd, "trust", "accept", "words")
    assert (status, "nobody" in out, signers(app)) == (0, True, {"words": ""})
    before = (app / "modpkg.lock").read_bytes()
    status, _, err = run(capfd, "trust", "accept", "wrods", "words")
    assert (status, "Nothing here requires wrods" in err) == (2, True)
    assert (app / "modpkg.lock").read_bytes() == before


def test_the_remedy_of_another_signer_works(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    assert run(capfd, "lock")[0] == 0
    release(capfd, tmp_path, "1.1", "bob")
    err = run(capfd, "update")[2]
    remedy = err.split("the command again with ")[1].rstrip(".\n").split()
    assert run(capfd, "update", *remedy)[0] == 0
    assert signers(app) == {"words": keys["bob"]}


@pytest.mark.parametrize("command", ["add", "install"])
@pytest.mark.parametrize("how", ["accepted", "required"])
def test_a_new_module_that_needs_an_older_signed_one_is_the_users_to_take(
    command: str,
    how: str,
    app: Path,
    home: Path,
    tmp_path: Path,
    keys: dict[str, str],
    capfd: Capture,
) -> None:
    """Its registry could have made it up; both ways that the sentence names lead on."""
    for version in ("1.0", "2.0"):
        release(capfd, tmp_path, version, "ada")
    assert run(capfd, "lock")[0] == 0
    publish_collection(home / "registry", "other", "1.0", {"words": "<2"})
    before = (app / "modpkg.lock").read_bytes(), (app / "modpkg.toml").read_bytes()
    status, _, err = run(capfd, command, "other")
    assert (status, "error[M416]" in err, "other 1.0 requires words<2" in err) == (1, True, True)
    assert ((app / "modpkg.lock").read_bytes(), (app / "modpkg.toml").read_bytes()) == before
    if how == "accepted":
        remedy = err.split("the command again with ")[1].rstrip(".\n").split()
    else:
        remedy = [err.split("require ")[1].split(" yourself")[0]]
    status, _, err = run(capfd, command, "other", *remedy)
    assert (status, "yourself" in err) == (0, False), err
    assert tomli.loads((app / "modpkg.lock").read_text())["module"][0]["version"] == "1.0"
    assert signers(app) == {"words": keys["ada"], "other": ""}
    assert run(capfd, "lock", "--upgrade")[0] == 0
    assert run(capfd, "lock", "--check")[0] == 0


def test_a_key_names_its_successor(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    assert run(capfd, "lock")[0] == 0
    status, _, err = run(capfd, "key", "succeed", "wrods", "--from", "ada", "--to", keys["bob"])
    assert (status, "error[M304]" in err) == (1, True)
    status, _, err = run(capfd, "key", "succeed", "words", "--from", "ada", "--to", keys["bob"])
    assert status == 0, err
    release(capfd, tmp_path, "1.1", "bob")
    assert run(capfd, "update")[0] == 0
    assert signers(app) == {"words": keys["bob"]}
    release(capfd, tmp_path, "1.2", "ada")  # whoever was succeeded signs no more
    assert "error[M571]" in run(capfd, "update")[2]


def test_the_manifest_says_who_has_to_sign(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "bob")
    assert run(capfd, "lock")[0] == 0
    assert run(capfd, "trust", "add", "wor*", keys["ada"])[0] == 0
    status, _, err = run(capfd, "lock")
    assert (status, "error[M543]" in err, keys["bob"] in err) == (1, True, True)
    assert "correct the entry of [trust]" in err
    assert "error[M412]" in run(capfd, "lock", "--check")[2]
    release(capfd, tmp_path, "1.1", "ada")
    assert run(capfd, "update")[0] == 0
    assert signers(app) == {"words": keys["ada"]}
    assert run(capfd, "lock", "--check")[0] == 0
    document = json.loads(run(capfd, "trust", "list", "--json")[1])
    assert document["modules"][0]["rule"].startswith("modpkg.toml:")
    status, out, _ = run(capfd, "trust", "add", "words", keys["bob"])
    assert (status, "stand before it" in out) == (0, False)
    assert "error[M543]" in run(capfd, "lock")[2]  # the narrower one holds
    status, out, _ = run(capfd, "trust", "add", "w*", keys["bob"])
    assert (status, "stand before it: wor*, words" in out) == (0, True)


def test_no_entry_is_for_what_nobody_has_signed(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    release(capfd, tmp_path, "1.1")
    assert run(capfd, "trust", "add", "words", keys["ada"])[0] == 0
    status, _, err = run(capfd, "lock")
    assert (status, "error[M543]" in err, "correct the entry" in err) == (1, True, False)
    assert run(capfd, "add", err.split("require ")[1].rstrip(".\n"))[0] == 0
    assert signers(app) == {"words": keys["ada"]}
    text = (app / "modpkg.toml").read_text()
    for pattern in ("acme/*", "Words"):
        status, _, err = run(capfd, "trust", "add", pattern, keys["ada"])
        assert (status, "no pattern like acme-*" in err, "modpkg.toml" in err) == (
            2,
            True,
            False,
        ), err
    assert (app / "modpkg.toml").read_text() == text


def test_what_is_said_of_the_users_environment_inside_a_project_is_of_that_one(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    release(capfd, tmp_path, "1.1", "ada")
    assert run(capfd, "add", "words==1.0", "--user")[0] == 0
    lock = Path(os.environ["MODPKG_HOME"], "environment", "modpkg.lock")
    text = lock.read_text()
    for command in (("sbom",), ("install", "--frozen"), ("outdated",)):
        lock.unlink()
        status, _, err = run(capfd, *command, "--user")
        assert (status, "error[M411]" in err) == (1, True), err
        assert run(capfd, *err.split("'modpkg ")[1].split("'")[0].split())[0] == 0
        assert lock.read_text() == text
    manifest = lock.with_name("modpkg.toml")
    manifest.write_text(manifest.read_text().replace("1.0", "1.1"))
    status, _, err = run(capfd, "sbom", "--user")
    assert (status, "error[M412]" in err, "'modpkg lock --user'" in err) == (1, True, True)
    release(capfd, tmp_path, "1.2", "bob")
    manifest.write_text(manifest.read_text().replace("==1.1", ">=1.1"))
    status, out, err = run(capfd, "trust", "accept", "words", "--user")
    assert (status, keys["bob"] in out) == (0, True), err
    assert not (app / "modpkg.lock").exists()


def test_only_signed_releases_where_that_is_required(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0")
    status, _, err = run(capfd, "lock", "--require-signed")
    assert (status, "error[M545]" in err) == (1, True)
    assert run(capfd, "lock")[0] == 0
    assert "error[M545]" in run(capfd, "install", "--require-signed")[2]
    # signing a release that is published already
    folder = tmp_path / "projects" / "words-1.0"
    assert run(capfd, "publish", str(folder), "--sign", "ada")[0] == 0
    status, _, err = run(capfd, "install", "--require-signed")
    assert (status, signers(app)) == (0, {"words": keys["ada"]}), err


def test_a_candidate_is_signed_as_a_release_is(
    app: Path, home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    assert run(capfd, "lock")[0] == 0
    folder = write_module(tmp_path / "projects" / "words-1.1", "words", "1.1")
    assert run(capfd, "build", str(folder))[0] == 0
    assert run(capfd, "submit", str(folder), "-m", "More.")[0] == 0
    tried = ("install", "--candidate", "words#1")
    assert "error[M544]" in run(capfd, *tried)[2]  # nobody has signed it
    assert run(capfd, "submit", str(folder), "-m", "More.", "--sign", "ada")[0] == 0
    status, _, err = run(capfd, *tried, "--require-signed")
    assert (status, signers(app)) == (0, {"words": keys["ada"]}), err
    assert "1.1 (#1)" in run(capfd, "list")[1]
    assert run(capfd, "accept", "words#1")[0] == 0
    assert run(capfd, "lock", "--require-signed")[0] == 0
    assert '"signed":true' in (home / "registry/index/words.jsonl").read_text().splitlines()[1]


def test_signatures_of_something_else_count_for_nothing(
    app: Path, home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    release(capfd, tmp_path, "1.0", "ada", "other")
    files = sorted((home / "registry" / "signatures").rglob("*.jsonl"))
    assert len(files) == 2
    one, two = (path.read_bytes() for path in files)
    files[0].write_bytes(two + b"{}\n\xff\n")
    files[1].write_bytes(one)
    status, _, err = run(capfd, "lock", "--require-signed")
    assert (status, "error[M545]" in err, "does not count" in err) == (1, True, True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data.replace(b'"sig":"', b'"sig":"AAAA'), "not one of key:"),
        (lambda _: b"{}\n", "malformed"),
        (lambda _: b"", "and nothing is"),
    ],
)
def test_signatures_that_count_for_nothing_are_said_where_none_is_needed(
    app: Path,
    home: Path,
    tmp_path: Path,
    keys: dict[str, str],
    capfd: Capture,
    change: Callable[[bytes], bytes],
    why: str,
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    (path,) = (home / "registry" / "signatures").rglob("*.jsonl")
    path.write_bytes(change(path.read_bytes()))
    status, _, err = run(capfd, "lock")
    assert (status, signers(app)) == (0, {"words": ""})
    (line,) = [line for line in err.splitlines() if "words 1.0 is locked without" in line]
    assert why in line
    assert why in run(capfd, "lock")[2]  # an install refers to that


def test_a_key_that_cannot_sign_changes_nothing(
    app: Path, home: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODPKG_KEY_PASSPHRASE", "a phrase")
    assert run(capfd, "key", "new", "ada")[0] == 0
    monkeypatch.setenv("MODPKG_KEY_PASSPHRASE", "another phrase")
    folder = write_module(tmp_path / "words", "words", "1.0")
    assert run(capfd, "build", str(folder))[0] == 0
    for key, code in (("ada", "M547"), ("lost", "M549")):
        status, _, err = run(capfd, "publish", str(folder), "--sign", key)
        assert (status, f"error[{code}]" in err, len(err.splitlines())) == (1, True, 1), err
        assert not (home / "registry" / "index" / "words.jsonl").exists()
        status, _, err = run(capfd, "export", "words", "out", "--sign", key)
        assert (status, f"error[{code}]" in err) == (1, True)
    err = run(capfd, "publish", str(folder), "--sign", "bob")[2]
    remedy = err.split("(modpkg ")[1].split(")")[0].split()
    assert run(capfd, *remedy, "--no-passphrase")[0] == 0  # of Ed25519
    status, _, err = run(capfd, "export", "words", "out", "--sign", "bob")
    assert (status, "error[M547]" in err, Path("out").exists()) == (1, True, False)


def test_verify_reads_signatures_again(
    app: Path, home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    assert run(capfd, "install")[0] == 0
    document = json.loads(run(capfd, "verify", "words", "--json")[1])
    assert (document["modules"][0]["signatures"], document["flaws"]) == ([keys["ada"]], [])
    assert "(by the lock)" not in run(capfd, "verify", "words")[1]
    (path,) = (home / "registry" / "signatures").rglob("*.jsonl")
    path.unlink()
    status, out, _ = run(capfd, "verify", "words")
    assert (status, f"{keys['ada']} (by the lock)" in out) == (1, True)
    assert "signed by nobody" in out
    release(capfd, tmp_path, "1.1", "bob")  # a signature of another release counts for nothing
    (other,) = (home / "registry" / "signatures").rglob("*.jsonl")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(other.read_bytes())
    assert "and not of words 1.0" in run(capfd, "verify")[1]
    (home / "registry").rename(home / "gone")
    status, out, err = run(capfd, "verify")
    assert (status, "(by the lock)" in out, "not read again" in err) == (0, True, True)


def test_a_file_of_signatures_is_bounded(home: Path) -> None:
    from modpkg.registry.folder_place import FolderPlace
    from modpkg.registry.signature_files import add_bundles
    from tests.raising import raises

    place = FolderPlace(home / "registry")
    place.prepare("test")
    many = [b"%d" % number for number in range(65)]
    with raises("M546"):
        place.change(lambda change: add_bundles(change, "signatures/ab/ab.jsonl", many))


def test_without_a_terminal_the_passphrase_is_of_the_environment(
    home: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODPKG_KEY_PASSPHRASE", "a phrase")
    assert run(capfd, "key", "new", "ada")[0] == 0
    monkeypatch.delenv("MODPKG_KEY_PASSPHRASE")

    def in_clear(prompt: str) -> str:
        warnings.warn("it would be shown", getpass.GetPassWarning, stacklevel=1)
        return ""

    monkeypatch.setattr(getpass, "getpass", in_clear)
    monkeypatch.setattr("click.termui.hidden_prompt_func", in_clear)
    project = write_module(tmp_path / "words", "words", "1.0")
    assert run(capfd, "build", str(project))[0] == 0
    status, _, err = run(capfd, "publish", str(project), "--sign", "ada")
    assert (status, "M901" in err, "--no-passphrase" in err) == (2, True, False), err
    assert "--no-passphrase" in run(capfd, "key", "new", "bob")[2]
