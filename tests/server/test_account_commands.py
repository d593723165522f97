"""Logging in from the command line, and what can be done then; with a server that listens."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modpkg.cli import main
from modpkg.core.digests import parse_digest
from modpkg.manifest.stored_logins import logins_path
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import bundles_in, signatures_path
from modpkg.server.accounts import add_account
from modpkg.server.passwords import password_hash
from modpkg.server.state import Server
from modpkg.trust.signatures import signers_of
from tests.changing import numbers, write
from tests.server.live import live_server

WORD = "correct horse battery"
Run = Callable[..., str]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with live_server(tmp_path_factory.mktemp("live") / "registry") as server:
        kept = password_hash(WORD)
        with server.database.begin() as db:
            for name in ("ada", "bob"):
                add_account(db, name, kept)
        yield server


@pytest.fixture
def run(
    live: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    monkeypatch.setitem(sys.modules, "keyring", None)
    monkeypatch.setenv("MODPKG_REGISTRY", live.settings.url)
    monkeypatch.delenv("MODPKG_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(
        *arguments: str | Path, who: str = "ada", typed: str = "", fails: str | None = None
    ) -> str:
        monkeypatch.setenv("MODPKG_HOME", str(tmp_path / who))
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as left:
            main([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert left.value.code == (0 if fails is None else 1), err
        if fails is not None:
            assert f"error[{fails}]" in err
            return err
        return out

    return call


def test_who_logs_in_publishes_and_who_logs_out_does_not(
    live: Server, run: Run, tmp_path: Path
) -> None:
    project = write(tmp_path / "words", numbers("a"), "words")
    run("build", project)
    assert "modpkg login" in run("publish", project, fails="M521")
    assert "wrong" in run("login", "--name", "ada", typed="no such word\n", fails="M433")
    said = run("login", "--name", "ada", typed=f"{WORD}\n")
    assert WORD not in said
    assert "as ada" in said
    kept = logins_path().read_text()
    token = json.loads(kept)[live.settings.url]["token"]
    assert token not in said
    assert json.loads(run("whoami", "--json"))["name"] == "ada"
    assert "Would publish words 1.0" in run("publish", project, "--dry-run")
    assert "Published words 1.0" in run("publish", project)
    assert "already" in run("publish", project)
    assert json.loads(run("info", "words", "--json"))["name"] == "words"
    assert "Logged out" in run("logout")
    run("whoami", fails="M521")
    assert token not in logins_path().read_text()
    assert "Nobody" in run("logout")
    again = run("login", "--token", typed=f"{token}\n", fails="M430")  # it was revoked
    assert token not in again


def test_a_token_for_ci_is_for_what_it_was_made_for(
    live: Server, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("login", "--name", "ada", typed=WORD)
    made = json.loads(run("token", "create", "ci", "--module", "acme-*", "--days", "3", "--json"))
    rows = json.loads(run("token", "list", "--json"))["tokens"]
    assert [row["name"] for row in rows if row["id"] == made["info"]["id"]] == ["ci"]
    assert made["token"] not in run("token", "list")
    run("logout")
    run("login", "--name", "ada", typed=WORD, who="other")
    for name, code in (("acme-one", None), ("others", "M432")):
        project = write(tmp_path / name, numbers("a"), name)
        run("build", project)
        monkeypatch.setenv(
            "MODPKG_TOKEN", run("token", "create", "--module", "acme-*", who="other").strip()
        )
        run("publish", project, who="ci", fails=code)
        monkeypatch.delenv("MODPKG_TOKEN")
    run("token", "revoke", "9999", who="other", fails="M439")


def test_a_module_gets_maintainers_and_passes_to_another(run: Run, tmp_path: Path) -> None:
    run("login", "--name", "ada", typed=WORD)
    run("login", "--name", "bob", typed=WORD, who="bob")
    project = write(tmp_path / "shared", numbers("a"), "shared")
    run("build", project)
    run("publish", project)
    update = write(tmp_path / "update", numbers("a", seed=1), "shared", "2.0")
    run("build", update, who="bob")
    run("publish", update, who="bob", fails="M432")
    assert "owner accept shared" in run("owner", "add", "shared", "bob")
    assert "maintainer (invited)" in run("owner", "list", "shared")
    assert "maintainer" in run("owner", "offers", who="bob")
    run("publish", update, who="bob", fails="M432")
    run("owner", "decline", "shared", who="bob")
    run("owner", "accept", "shared", who="bob", fails="M441")
    run("owner", "add", "shared", "bob")
    assert "bob is a maintainer" in run("owner", "accept", "shared", who="bob")
    assert "Published" in run("publish", update, who="bob")
    roles = json.loads(run("owner", "list", "shared", "--json"))["holders"]
    assert {(one["name"], one["role"]) for one in roles} == {
        ("ada", "owner"),
        ("bob", "maintainer"),
    }
    run("owner", "transfer", "shared", "bob")
    assert "shared" in run("owner", "offers", who="bob")
    assert "offers it to bob" in run("owner", "list", "shared")
    run("owner", "decline", "shared", who="bob")
    run("owner", "transfer", "shared", "bob")
    run("owner", "accept", "shared", who="bob")
    roles = json.loads(run("owner", "list", "shared", "--json"))["holders"]
    assert ("bob", "owner") in {(one["name"], one["role"]) for one in roles}
    run("owner", "add", "shared", "ada", fails="M432")


def test_an_organisation_owns_what_its_members_publish(run: Run, tmp_path: Path) -> None:
    for who in ("ada", "bob"):
        run("login", "--name", who, typed=WORD, who=who)
    run("organisation", "create", "acme", "--full-name", "Acme Ltd")
    project = write(tmp_path / "ours", numbers("a"), "ours")
    run("build", project)
    run("publish", project, "--owner", "acme", who="bob", fails="M432")
    assert "organisation accept acme" in run("organisation", "add", "acme", "bob")
    assert "member (invited)" in run("organisation", "show", "acme")
    run("publish", project, "--owner", "acme", who="bob", fails="M432")
    assert "acme" in run("organisation", "invitations", who="bob")
    assert "Joined acme" in run("organisation", "accept", "acme", who="bob")
    run("publish", project, "--owner", "acme", who="bob")
    assert "acme" in run("owner", "list", "ours", who="nobody")
    assert "Acme Ltd" in run("organisation", "show", "acme", who="nobody")
    left = json.loads(run("organisation", "remove", "acme", "bob", "--json"))
    assert left["members"] == [{"name": "ada", "role": "owner"}]
    run("organisation", "add", "acme", "bob", who="bob", fails="M432")


def test_a_private_module_is_read_with_a_login(live: Server, run: Run, tmp_path: Path) -> None:
    for who in ("ada", "bob"):
        run("login", "--name", who, typed=WORD, who=who)
    project = write(tmp_path / "secret", numbers("a"), "secret")
    run("build", project)
    run("publish", project, "--private")
    assert json.loads(run("info", "secret", "--json"))["name"] == "secret"
    run("install", "secret", "--user")
    for who in ("bob", "nobody"):
        run("info", "secret", fails="M304", who=who)
        run("install", "secret", "--user", fails="M304", who=who)


def test_signatures_come_and_go_with_releases(live: Server, run: Run, tmp_path: Path) -> None:
    run("login", "--name", "ada", typed=WORD)
    keys = {}
    for key in ("one", "two"):
        keys[key] = json.loads(run("key", "new", key, "--no-passphrase", "--json"))["public"]
    for name, private in (("known", []), ("hidden", ["--private"])):
        project = write(tmp_path / name, numbers("a"), name)
        run("build", project)
        run("publish", project, "--sign", "one", *private)
        app = tmp_path / f"app-{name}"
        app.mkdir()
        (app / "modpkg.toml").write_text(f'[app]\nname = "app"\n[dependencies]\n{name} = "*"\n')
        run("lock", "-C", app)
        assert keys["one"] in (app / "modpkg.lock").read_text()
    # Of a release that is published, a signature is added.
    project = write(tmp_path / "late", numbers("a"), "late")
    run("build", project)
    run("publish", project)
    for key in ("one", "two"):
        assert f"Signed 1.0 by {keys[key]}" in run("publish", project, "--sign", key)
    run("registry", "copy", live.settings.url, tmp_path / "copy", "late", "known")
    for name, count in (("late", 2), ("known", 1)):
        (line,) = Registry(str(tmp_path / "copy")).index(name)
        path = tmp_path / "copy" / signatures_path(parse_digest(line.release))
        assert (line.signed, len(bundles_in(path.read_bytes()))) == (True, count)
    run("yank", f"known=={line.version}", "--reason", "bad", "--sign", "one")
    run("registry", "copy", live.settings.url, tmp_path / "copy", "known")
    assert len(bundles_in(path.read_bytes())) == 2  # of what was copied before, yanks follow
    with live_server(tmp_path / "other") as other:
        with other.database.begin() as db:
            add_account(db, "ada", password_hash(WORD))
        run("login", other.settings.url, "--name", "ada", typed=WORD)
        run("registry", "copy", tmp_path / "copy", other.settings.url)
        assert other.place.folder is not None
        copied = other.place.folder / path.relative_to(tmp_path / "copy")
        assert copied.read_bytes() == path.read_bytes()
        run("yank", f"known=={line.version}", "--undo", "--sign", "one")
        run("registry", "copy", live.settings.url, other.settings.url, "known")
        assert len(bundles_in(copied.read_bytes())) == 3


def test_who_yanks_signs_what_the_key_before_has_signed(
    live: Server, run: Run, tmp_path: Path
) -> None:
    run("login", "--name", "ada", typed=WORD)
    keys = {}
    for key in ("one", "two"):
        keys[key] = json.loads(run("key", "new", key, "--no-passphrase", "--json"))["public"]
    for version, key in (("1.0", "one"), ("1.1", "two")):
        project = write(tmp_path / version, numbers("a"), "handed", version)
        run("build", project)
        run("publish", project, "--sign", key, "--allow-breaking", "a test")
        if key == "one":
            run("key", "succeed", "handed", "--from", "one", "--to", keys["two"])
    assert "Signed 1.0" in run("yank", "handed==1.1", "--sign", "two")
    assert live.place.folder is not None
    registry = Registry(str(live.place.folder))
    lines = {line.version: line for line in registry.index("handed")}
    assert [lines["1.0"].yanked, lines["1.1"].yanked] == [None, ""]
    assert [*map(str, signers_of(registry, lines["1.0"]).found)] == [keys["one"], keys["two"]]


def test_a_token_that_was_revoked_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    run("login", "--name", "ada", typed=WORD)
    project = write(tmp_path / "open", numbers("a"), "open")
    run("build", project)
    run("publish", project)
    run("token", "revoke", str(json.loads(run("whoami", "--json"))["token"]))
    assert "modpkg login" in run("publish", project, fails="M430")
    assert "modpkg login" in run("search", "open", fails="M314")


def test_an_owner_names_the_jobs_that_publish(run: Run, tmp_path: Path) -> None:
    run("login", "--name", "ada", typed=WORD)
    project = write(tmp_path / "jobs", numbers("a"), "jobs")
    run("build", project)
    run("publish", project)
    added = json.loads(run("publisher", "add", "jobs", "acme/words", "release.yml", "--json"))
    assert "acme/words" in run("publisher", "list", "jobs")
    run("publisher", "remove", "jobs", str(added["id"]))
    assert json.loads(run("publisher", "list", "jobs", "--json"))["publishers"] == []
    run("publisher", "add", "jobs", "acme", "release.yml", fails="M449")


def test_a_folder_has_no_accounts(run: Run, tmp_path: Path) -> None:
    assert "modpkg registry serve" in run("login", tmp_path, "--name", "ada", fails="M525")
    assert os.environ["MODPKG_HOME"] == str(tmp_path / "ada")


def test_accounts_are_made_changed_closed_and_opened(live: Server, run: Run) -> None:
    with live.database.begin() as db:
        add_account(db, "root-of-all", password_hash(WORD), is_administrator=True)
    run("login", "--name", "root-of-all", typed=WORD, who="admin")
    made = json.loads(run("account", "create", "Eve", "--json", typed=WORD, who="eve"))
    assert made["name"] == "eve"
    run("account", "create", "eve", typed=WORD, who="eve", fails="M435")
    assert "as eve" in run("login", "--name", "eve", typed=WORD, who="eve")
    # One's own password, and that of who has lost his.
    run("account", "password", typed="wrong words here\nnew words here\n", who="eve", fails="M433")
    said = run("account", "password", "--json", typed=f"{WORD}\nnew words here\n", who="eve")
    assert json.loads(said) == {"schema": 1, "name": "eve", "closed": None, "password": True}
    run("login", "--name", "eve", typed=WORD, who="eve", fails="M433")
    run("account", "password", "ada", typed="words of eve", who="eve", fails="M432")
    run("account", "password", "eve", typed="the third words", who="admin")
    run("login", "--name", "eve", typed="the third words", who="eve")
    # Closed and opened by administrators alone.
    run("account", "close", "ada", who="eve", fails="M432")
    assert "Closed" in run("account", "close", "eve", who="admin")
    run("whoami", who="eve", fails="M430")
    run("login", "--name", "eve", typed="the third words", who="eve", fails="M433")
    said = run("account", "open", "eve", "--json", who="admin")
    assert json.loads(said) == {"schema": 1, "name": "eve", "closed": False, "password": False}
    run("login", "--name", "eve", typed="the third words", who="eve")
    run("account", "close", "nobody-there", who="admin", fails="M439")


def test_who_is_invited_makes_an_account(tmp_path: Path, run: Run) -> None:
    with live_server(tmp_path / "closed", open_registration=False) as server:
        with server.database.begin() as db:
            add_account(db, "ada", password_hash(WORD), is_administrator=True)
        at = ("--registry", server.settings.url)
        run("login", server.settings.url, "--name", "ada", typed=WORD)
        run("account", "create", "new-one", *at, typed=WORD, who="new", fails="M437")
        code = json.loads(run("account", "invite", *at, "--json"))["code"]
        options = ("--invitation", code, "--email", "new@models.example")
        assert "new-one" in run(
            "account", "create", "new-one", *options, *at, typed=WORD, who="new"
        )
        run("account", "create", "another", *options, *at, typed=WORD, who="new", fails="M437")


def test_who_is_in_an_organisation_leaves_it(run: Run) -> None:
    for who in ("ada", "bob"):
        run("login", "--name", who, typed=WORD, who=who)
    run("organisation", "create", "leavers")
    run("organisation", "add", "leavers", "bob")
    run("organisation", "decline", "leavers", who="bob")
    run("organisation", "accept", "leavers", who="bob", fails="M439")
    run("organisation", "add", "leavers", "bob")
    run("organisation", "accept", "leavers", who="bob")
    assert "is an owner of" in run("organisation", "add", "leavers", "bob", "--role", "owner")
    run("organisation", "add", "leavers", "bob")
    left = json.loads(run("organisation", "leave", "leavers", "--json", who="bob"))
    assert left["members"] == [{"name": "ada", "role": "owner"}]
    run("organisation", "leave", "leavers", fails="M440")
    run("organisation", "leave", "leavers", who="bob", fails="M439")


def test_who_leaves_closes_his_account_and_leaves_nothing_without_an_owner(
    run: Run, tmp_path: Path
) -> None:
    for who in ("ada", "leaver"):
        if who == "leaver":
            run("account", "create", who, typed=WORD, who=who)
        run("login", "--name", who, typed=WORD, who=who)
    project = write(tmp_path / "left", numbers("a"), "left-behind")
    run("build", project, who="leaver")
    run("publish", project, who="leaver")
    close = ("account", "close", "Leaver")
    assert "left-behind" in run(*close, typed=WORD, who="leaver", fails="M440")
    run("owner", "add", "left-behind", "ada", "--role", "owner", who="leaver")
    run("owner", "accept", "left-behind")
    run("organisation", "create", "leavings", who="leaver")
    assert "leavings" in run(*close, typed=WORD, who="leaver", fails="M440")
    run("organisation", "add", "leavings", "ada", "--role", "owner", who="leaver")
    run("organisation", "accept", "leavings")
    run(*close, typed="not the password", who="leaver", fails="M433")
    assert "Closed" in run(*close, typed=WORD, who="leaver")
    run("whoami", who="leaver", fails="M521")
    run("login", "--name", "leaver", typed=WORD, who="leaver", fails="M433")
    assert json.loads(run("info", "left-behind", "--json"))["name"] == "left-behind"
