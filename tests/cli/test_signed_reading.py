"""Each command that reads a signed registry refuses what its maintainers have not signed."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest

import modpkg
from modpkg.trust import signed_index
from tests.cli.test_everywhere import run
from tests.cli.test_registry_trust import Capture, Trust
from tests.command import check_shape
from tests.modules import publish_collection
from tests.registry.servers import serve
from tests.trust.log.logged import LoggedRegistry

READERS = (
    ("lock", "--upgrade"),
    ("update",),
    ("add", "words==1.0"),
    ("search", "words"),
    ("registry", "search", "words"),
    ("outdated",),
    ("audit",),
    ("info", "words"),
    ("why-not", "words==1.0"),
    ("vendor", "vendored"),
    ("fork", "words", "mine"),
    ("diff", "words==1.0", "words==1.0"),
)


@pytest.fixture
def trust(home: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> Trust:
    """A registry whose index is signed, with words 1.0, and a project that has locked it."""
    monkeypatch.setattr(signed_index, "PAUSE", 0)
    made = Trust(capfd, tmp_path / "registry")
    made.publish("1.0")
    made.init()
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\nwords = "*"\n'
        f'[registries]\ndefault = "{made.folder.as_posix()}"\n'
    )
    monkeypatch.chdir(folder)
    made.run("lock")
    return made


def tamper(folder: Path) -> None:
    """Let somebody who has the storage, and no key, yank a release."""
    path = folder / "index" / "words.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"yanked":null', b'"yanked":"no"'))
    assert b'"yanked":"no"' in path.read_bytes()


def test_what_is_not_signed_is_read_by_no_command(trust: Trust, tmp_path: Path) -> None:
    tamper(trust.folder)
    taken = []
    for words in READERS:
        status, _, err = run(trust.capfd, *words)
        if (status, "error[M564]" in err) != (1, True):
            taken.append((words, status, err))
    assert not taken


def test_a_search_shows_what_is_signed(trust: Trust) -> None:
    """Nobody signs the list of modules."""
    path = trust.folder / "modules.jsonl"
    (before,) = json.loads(trust.run("search", "words", "--json"))["modules"]
    line = path.read_bytes()
    other = line.replace(b'"version":"1.0"', b'"version":"9.0"')
    evil = line.replace(b'"name":"words"', b'"name":"words-evil"')
    path.write_bytes(other + evil)
    found = json.loads(trust.run("search", "words", "--json"))
    assert (found["modules"], found["total"]) == ([before], 1)


@pytest.mark.parametrize("has_list", [True, False])
def test_a_search_leaves_out_the_one_module_that_is_not_signed(
    has_list: bool, trust: Trust
) -> None:
    """A yank that is not signed yet hides no other module."""
    publish_collection(trust.folder, "wordlist", "1.0")
    trust.trust("sign", "--online-key", trust.key("online"))
    trust.run("yank", "words==1.0", "--registry", str(trust.folder))
    if not has_list:
        (trust.folder / "modules.jsonl").unlink()
    for words in ((), ("word",)):
        status, out, err = run(trust.capfd, "search", *words, "--json")
        document = json.loads(out)
        check_shape(document, "search", *words)
        (left_out,) = document["left_out"]
        assert (status, [one["name"] for one in document["modules"]]) == (0, ["wordlist"])
        assert (document["total"], left_out["name"], left_out["code"]) == (1, "words", "M564")
        assert ("words may fit and is not shown" in err, left_out["reason"] in err) == (True, True)
    assert "error[M564]" in trust.refused("search", "words")
    for refused in (("lock", "--upgrade"), ("install", "words==1.0"), ("info", "words")):
        assert "error[M564]" in trust.refused(*refused)
    trust.trust("sign", "--online-key", trust.key("online"))
    line = json.loads((trust.folder / "index" / "words.jsonl").read_bytes())
    digest = line["release"].removeprefix("sha256:")
    for path in [*trust.folder.rglob(digest), *trust.folder.parent.glob(f"home/store/**/{digest}")]:
        path.unlink()
    document = json.loads(trust.run("search", "--json"))  # neither does a record that is gone
    assert [one["name"] for one in document["modules"]] == ["wordlist"]
    assert [one["code"] for one in document["left_out"]] == ["M306"]


def test_an_audit_says_of_which_module_nothing_is_known(trust: Trust) -> None:
    """What is known of the others is shown; that is not enough to pass."""
    publish_collection(trust.folder, "other", "1.0")
    trust.trust("sign", "--online-key", trust.key("online"))
    manifest = Path("modpkg.toml")
    manifest.write_text(manifest.read_text().replace('words = "*"', 'words = "*"\nother = "*"'))
    trust.run("lock")
    trust.run("yank", "other==1.0", "--registry", str(trust.folder))
    trust.trust("sign", "--online-key", trust.key("online"))
    tamper(trust.folder)
    status, out, err = run(trust.capfd, "audit", "--json")
    document = json.loads(out)
    check_shape(document, "audit")
    assert (status, [one["name"] for one in document["yanked"]]) == (1, ["other"])
    assert [(one["name"], one["code"]) for one in document["left_out"]] == [("words", "M564")]
    assert ("other 1.0 was yanked" in err, "whether words was yanked" in err) == (True, True)


def test_a_search_offline_shows_what_was_read_as_it_is_signed(trust: Trust, home: Path) -> None:
    """The list of modules, whose copy is read, is not signed."""

    def found(*options: str) -> tuple[list[str], bool]:
        status, out, err = run(trust.capfd, "search", "--json", "--registry", server.url, *options)
        assert status == 0, err
        modules = json.loads(out)["modules"]
        return [f"{one['name']} {one['version']}" for one in modules], "1 more may fit" in err

    with serve(trust.folder) as server:
        assert found() == (["words 1.0"], False)
        (copy,) = home.rglob("modules.jsonl")
        line = copy.read_bytes()
        evil = line.replace(b'"name":"words"', b'"name":"words-evil"')
        copy.write_bytes(line.replace(b'"version":"1.0"', b'"version":"9.0"') + evil)
        assert found("--offline") == (["words 1.0"], True)
        tamper(copy.parent)
        words = ("search", "words", "--offline", "--registry", server.url)
        status, out, err = run(trust.capfd, *words)
        assert (status, out, "2 more may fit" in err) == (0, "No module was found.\n", True)
        (copy.parent / "registry.json").write_bytes(b"{}")
        assert "error[M592]" in trust.refused(*words)


def test_a_copy_launders_nothing(trust: Trust, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    words = ("registry", "copy", str(trust.folder), str(copy))
    status, _, err = run(trust.capfd, *words)
    assert (status, "no signed index, as" in " ".join(err.split())) == (0, True)
    document = json.loads(trust.run(*words, "--json"))
    check_shape(document, *words)
    assert (document["signed"], document["already"]) == (False, 1)
    assert document["lacks"] == ["signed index"]
    shutil.rmtree(copy)
    whole = (trust.folder / "index" / "words.jsonl").read_bytes()
    tamper(trust.folder)
    assert "error[M564]" in trust.refused(*words)
    assert not copy.exists()
    (trust.folder / "index" / "words.jsonl").unlink()
    (trust.folder / "modules.jsonl").write_bytes(b"")
    assert "error[M564]" in trust.refused(*words)  # what is hidden is missed
    assert "error[M564]" in trust.refused("registry", "info", str(trust.folder))
    (trust.folder / "index" / "words.jsonl").write_bytes(whole)
    trust.run(*words)


def test_a_copy_says_that_it_has_no_log(home: Path, tmp_path: Path, capfd: Capture) -> None:
    LoggedRegistry(tmp_path / "models").begin().publish("words")
    words = ("registry", "copy", str(tmp_path / "models"), str(tmp_path / "copy"))
    assert json.loads(run(capfd, *words, "--json")[1])["lacks"] == ["log"]
    status, _, err = run(capfd, *words)
    assert (status, "no log, as" in " ".join(err.split())) == (0, True)
    assert not (tmp_path / "copy" / "log").exists()


def test_verifying_tells_all_that_is_not_signed(trust: Trust) -> None:
    words = ("registry", "verify", str(trust.folder))
    trust.run(*words)
    whole = (trust.folder / "registry.json").read_bytes()
    tamper(trust.folder)
    (trust.folder / "registry.json").write_bytes(whole.replace(b"{", b'{"more":1,', 1))
    (trust.folder / "index" / "evil.jsonl").write_bytes(b"")
    status, out, _ = run(trust.capfd, *words, "--json")
    document = json.loads(out)
    check_shape(document, *words)
    assert status == 1
    assert {(one["path"], one["code"]) for one in document["damaged"]} >= {
        ("index/evil.jsonl", "M564"),
        ("index/words.jsonl", "M564"),
        ("registry.json", "M564"),
    }
    (trust.folder / "tuf" / "timestamp.json").unlink()
    status, out, _ = run(trust.capfd, *words)
    assert (status, "damaged tuf [M56" in out) == (1, True)


def test_who_changes_a_signed_index_by_hand_is_told_what_to_do(trust: Trust) -> None:
    storage = str(trust.folder)
    sign = f"modpkg registry trust sign {storage} --online-key KEY"
    here = ("--registry", storage)
    for words in (
        ("registry", "init", storage, "--cool-down", "1 day"),
        ("yank", "words==1.0", *here),
        ("deprecate", "words", *here),
        ("registry", "remove", "words==1.0", "--reason", "it is bad", *here),
    ):
        status, _, err = run(trust.capfd, *words)
        assert (status, sign in " ".join(err.split())) == (0, True), words
        assert "error[M564]" in trust.refused("lock", "--upgrade")
        trust.run(*sign.replace("KEY", trust.key("online")).split()[1:])
        status, _, err = run(trust.capfd, "lock", "--upgrade")
        assert "M564" not in err


def manifest(url: str, root: str) -> None:
    Path("modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\nwords = "*"\n'
        f'[registries]\ndefault = {{ url = "{url}", root = "{root}" }}\n'
    )


def forget(home: Path) -> None:
    """Let nothing be known of any registry."""
    shutil.rmtree(home / "registries")
    shutil.rmtree(home / "store", ignore_errors=True)
    Path("modpkg.lock").unlink(missing_ok=True)


def test_a_manifest_names_the_first_root(trust: Trust, home: Path) -> None:
    storage, root = trust.folder.as_posix(), trust.trust("show")["root"]
    manifest(storage, root)
    trust.run("lock")
    manifest(storage, f"sha256:{'0' * 64}")
    assert "error[M573]" in trust.refused("lock", "--upgrade")
    forget(home)
    assert "error[M573]" in trust.refused("lock")
    assert "error[M573]" in trust.refused("registry", "info", storage)
    assert "error[M573]" in trust.refused("install", "words", "--registry", storage)
    assert "error[M573]" in trust.refused("search", "words")
    assert not (home / "registries").exists()
    manifest(storage, root)
    trust.run("lock")
    forget(home)
    shutil.rmtree(trust.folder / "tuf")
    err = trust.refused("lock")
    assert ("error[M573]" in err, "modpkg.toml" in err) == (True, True)
    (trust.folder / "tuf").mkdir()
    unsign(trust.folder)
    assert "error[M573]" in trust.refused("lock")
    for wrong in ('{ root = "sha256:0" }', '{ url = "x", root = "0" }', '{ url = "x", a = 1 }'):
        Path("modpkg.toml").write_text(f'[app]\nname = "app"\n[registries]\ndefault = {wrong}\n')
        assert "error[M110]" in trust.refused("lock")


def test_a_mirror_cannot_hide_that_a_registry_is_signed(
    trust: Trust, home: Path, tmp_path: Path
) -> None:
    root = trust.trust("show")["root"]
    mirror = tmp_path / "mirror"
    shutil.copytree(trust.folder, mirror)
    unsign(mirror)
    trust.publish("1.1")
    trust.trust("sign", "--online-key", trust.key("online"))
    forget(home)
    with serve(trust.folder) as server:
        (home / "config.toml").write_text(
            f'[registry."{server.url}"]\nmirrors = ["file://{mirror.as_posix()}"]\n'
        )
        manifest(server.url, root)
        trust.run("lock")
        assert 'version = "1.1"' in Path("modpkg.lock").read_text()


def unsign(folder: Path) -> None:
    """Let a registry say that it is not signed, and never was."""
    shutil.rmtree(folder / "tuf")
    info = json.loads((folder / "registry.json").read_bytes())
    del info["tuf"]
    (folder / "registry.json").write_text(json.dumps(info))


def test_another_spelling_of_its_address_forgets_nothing(trust: Trust, home: Path) -> None:
    def project(url: str) -> None:
        Path("modpkg.toml").write_text(
            f'[app]\nname = "app"\n[dependencies]\nwords = "*"\n[registries]\ndefault = "{url}"\n'
        )

    with serve(trust.folder) as server:
        other = f"{server.url.replace('http', 'HTTP')}/x/.."
        project(server.url)
        Path("modpkg.lock").unlink()
        trust.run("lock")
        lock = Path("modpkg.lock").read_bytes()
        project(other)
        trust.run("lock", "--upgrade")
        assert Path("modpkg.lock").read_bytes() == lock
        unsign(trust.folder)
        assert "error[M566]" in trust.refused("lock", "--upgrade")
        Path("modpkg.lock").unlink()
        assert "error[M566]" in trust.refused("lock")
        shutil.rmtree(home / "registries")
        Path("modpkg.lock").write_bytes(lock)
        assert "error[M566]" in trust.refused("lock", "--upgrade")


def test_who_looks_after_a_registry_is_held_to_the_lock(trust: Trust, home: Path) -> None:
    """Another machine has seen a later state."""
    lock = Path("modpkg.lock").read_text()
    forget(home)
    Path("modpkg.lock").write_text(lock.replace("snapshot = 1", "snapshot = 2"))
    for words in (("info",), ("copy", "copy"), ("verify",)):
        status, out, err = run(trust.capfd, "registry", words[0], str(trust.folder), *words[1:])
        assert (status, "M562" in out + err) == (1, True), words


VERIFYING = {
    "environment/open_registries.py": "the registries of a project and of the settings",
    "cli/registry_address.py": "the registry that a command names",
}
PLAIN = {
    "community/modules/recipe_models.py": "a folder that a build has written",
    "community/modules/view.py": "a folder that a build has written",
    "community/semver/releases.py": "a folder that a build has written; who publishes, writes",
    "community/semver/version_check.py": "who accepts a candidate, writes",
    "community/patch/base.py": "who publishes next, writes",
    "community/review/desk.py": "who decides, writes",
    "community/review/submit.py": "who submits, writes",
    "environment/hub_modules.py": "a hub's commit names every byte; a folder of the store",
    "cli/key.py": "who signs a successor, writes; it names only what has a signature of the key",
    "cli/registry.py": "who makes a registry or copies to it, writes; the private tree",
    "cli/yank.py": "who yanks, writes; the yank of another release counts for none that is locked",
    "cli/registry_verify.py": "the private tree, reported by the signed index; blobs by digest",
}
OPENING = {"Registry", "registry_at", "open_alone"}


def test_every_place_that_opens_a_registry_is_known() -> None:
    """What is opened elsewhere is read as it is signed, or says here why not."""
    root = Path(modpkg.__file__).parent
    found = set()
    for room in ("environment", "community", "cli", "runtime", "interop"):
        for path in sorted((root / room).rglob("*.py")):
            calls = (one for one in ast.walk(ast.parse(path.read_text())))
            names = {
                one.func.id
                for one in calls
                if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)
            }
            if names & OPENING:
                found.add(path.relative_to(root).as_posix())
    assert found == {*VERIFYING, *PLAIN}
