"""Names that several registries have: which one is meant is said, and never guessed."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from tests.cli.test_everywhere import run
from tests.modules import publish_collection
from tests.registry.servers import Handler, serve
from tests.registry.test_allowance import line as made_up
from tests.registry.test_revalidation import with_etags
from tests.resolve.universe import Universe


@pytest.fixture
def acme(home: Path, tmp_path: Path) -> Path:
    """A private registry with ``acme-app`` on ``acme-inner``, which the public one has too."""
    publish_collection(tmp_path / "acme", "acme-inner", "1.0")
    publish_collection(tmp_path / "acme", "acme-app", "1.0", {"acme-inner": "*"})
    publish_collection(home / "registry", "acme-inner", "99.0")
    publish_collection(home / "registry", "lib", "1.0")
    return tmp_path / "acme"


def write(acme: Path, dependencies: str) -> None:
    Path("modpkg.toml").write_text(
        f"[app]\nname = 'app'\n[registries]\nacme = '{acme}'\n[dependencies]\n{dependencies}"
    )


APP = "acme-app = { version = '*', registry = 'acme' }\n"


def locked() -> str:
    return Path("modpkg.lock").read_text()


def test_what_a_private_module_requires_is_private(
    acme: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(acme, APP)
    status, _, err = run(capfd, "lock")
    assert (status, "warning" in err) == (0, False)
    assert "99.0" not in locked()


def test_also_if_its_index_has_no_valid_line(acme: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (acme / "index" / "acme-inner.jsonl").write_text("{}\n")
    write(acme, APP)
    status, _, err = run(capfd, "lock")
    assert status == 1
    assert "99.0" not in err


@pytest.mark.parametrize("configured", ["manifest", "config"])
@pytest.mark.parametrize(("answer", "version"), [("default", "99.0"), ("acme", "1.0")])
def test_a_bare_name_of_two_registries_is_refused(
    acme: Path,
    home: Path,
    configured: str,
    answer: str,
    version: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write(acme, "acme-inner = '*'\n")
    if configured == "config":
        (home / "config.toml").write_text(f"[registries]\nacme = '{acme}'\n")
        Path("modpkg.toml").write_text("[app]\nname = 'app'\n[dependencies]\nacme-inner = '*'\n")
    status, _, err = run(capfd, "lock")
    assert (status, "error[M319]" in err) == (1, True), err
    assert str(acme) in err
    assert str(home / "registry") in err
    assert f"'modpkg install acme-inner --registry {answer}'" in err
    assert run(capfd, "install", "acme-inner", "--registry", answer)[0] == 0
    assert f'version = "{version}"' in locked()
    Path("modpkg.lock").unlink()
    assert run(capfd, "lock")[0] == 0
    assert f'version = "{version}"' in locked()


@pytest.mark.parametrize("configured", ["manifest", "config"])
def test_what_is_locked_is_assigned(
    acme: Path, home: Path, configured: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write(acme, "lib = '*'\n")
    if configured == "config":
        (home / "config.toml").write_text(f"[registries]\nacme = '{acme}'\n")
        Path("modpkg.toml").write_text("[app]\nname = 'app'\n[dependencies]\nlib = '*'\n")
    assert run(capfd, "lock")[0] == 0
    publish_collection(acme, "lib", "2.0")
    publish_collection(home / "registry", "lib", "1.1")
    status, _, err = run(capfd, "update")
    assert status == 0
    assert 'version = "1.1"' in locked()
    self_sufficient(err, "lib = '*'\n", 'lib = { version = "*", registry = "default" }', capfd)


def self_sufficient(err: str, bare: str, written: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Check that what is reported makes the manifest say what only the lock did."""
    assert f"write {written} under [dependencies] of modpkg.toml" in err
    before, text = locked(), Path("modpkg.toml").read_text()
    Path("modpkg.lock").unlink()
    assert "error[M319]" in run(capfd, "lock")[2]
    Path("modpkg.toml").write_text(text.replace(bare, "") + written + "\n")
    status, _, err = run(capfd, "lock")
    assert (status, err) == (0, "")
    assert registries(before) == registries(locked())


def registries(lock: str) -> set[tuple[str, ...]]:
    """Return name and address of each locked module."""
    return set(re.findall(r"^name = (.*)$[^[]*^address = (.*)$", lock, re.MULTILINE))


def test_what_is_locked_of_what_others_require_is_assigned(
    acme: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_collection(home / "registry", "top", "1.0")
    write(acme, f"{APP}top = '*'\n")
    assert run(capfd, "lock")[0] == 0
    publish_collection(home / "registry", "top", "1.1", {"acme-inner": "*"})
    status, _, err = run(capfd, "lock")
    assert status == 0
    assert "acme-inner comes from " in err
    written = 'acme-inner = { version = "*", registry = "acme" }'
    self_sufficient(err, "", written, capfd)


def test_what_a_registry_lacks_is_told_and_refused_if_two_have_it(
    acme: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_collection(acme, "acme-app", "1.1", {"lib": "*"})
    write(acme, APP)
    status, _, err = run(capfd, "lock")
    assert status == 0
    assert "modules of the registry 'acme' require lib, which it does not have: taken from" in err
    assert "warning" not in run(capfd, "lock")[2]  # it is locked from there now
    Path("modpkg.lock").unlink()
    publish_collection(tmp_path / "team", "lib", "3.0")
    text = Path("modpkg.toml").read_text()
    Path("modpkg.toml").write_text(text.replace("[dep", f"team = '{tmp_path / 'team'}'\n[dep"))
    err = run(capfd, "lock")[2]
    assert "error[M319]" in err
    assert "lib is required by acme-app, of the registry 'acme', which does not have it" in err


@pytest.mark.parametrize("how", ["option", "variable"])
def test_what_takes_the_place_of_the_default_is_told(
    acme: Path,
    home: Path,
    how: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("modpkg.toml").write_text(
        f"[app]\nname = 'app'\n[registries]\ndefault = '{home / 'registry'}'\n"
        "[dependencies]\nacme-inner = '*'\n"
    )
    arguments = ["lock", "--registry", str(acme)] if how == "option" else ["lock"]
    if how == "variable":
        monkeypatch.setenv("MODPKG_REGISTRY", str(acme))
    status, _, err = run(capfd, *arguments)
    assert status == 0
    name = "--registry" if how == "option" else "MODPKG_REGISTRY"
    assert f"{acme} ({name}) is asked in place of {home / 'registry'}" in err
    assert "which modpkg.toml names as default" in err


def test_what_a_private_module_requires_is_asked_for_together_and_once(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Index files that have not changed are not sent again."""
    universe = Universe(tmp_path / "acme")
    names = [f"n{number}" for number in range(8)]
    universe.add("acme-app", "1", *names)
    for name in names:
        universe.add(name, "1", f"{name}-inner")
        universe.add(f"{name}-inner", "1")
    publish_collection(home / "registry", "lib", "1.0")
    together = Together(len(names))
    with serve(universe.folder) as server:
        server.fault = together
        Path("modpkg.toml").write_text(
            f"[app]\nname = 'app'\n[registries]\nacme = '{server.url}'\n[dependencies]\n{APP}"
        )
        status, _, err = run(capfd, "lock")
        assert (status, err) == (0, "")
        asked = [path for path in server.paths() if path.startswith("/index/")]
        assert sorted(asked) == sorted(
            f"/index/{name}.jsonl"
            for name in ("acme-app", *names, *(f"{name}-inner" for name in names))
        )
        Path("modpkg.lock").unlink()
        server.seen.clear()
        assert run(capfd, "lock")[0] == 0
        again = [seen for seen in server.seen if seen.path.startswith("/index/")]
        assert len(again) == len(asked)
        assert all("if-none-match" in seen.headers for seen in again)


class Together:
    """Answers nothing before several index files are asked for at the same time; with ETags."""

    def __init__(self, many: int) -> None:
        self._all = threading.Barrier(many)

    def __call__(self, handler: Handler, number: int) -> bool:
        if "/index/n" in handler.path:
            self._all.wait(120)
        return with_etags(handler, number)


def test_what_a_private_registry_makes_up_is_counted(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_collection(home / "registry", "lib", "1.0")
    (home / "config.toml").write_text("[limits]\nnames = 30\n")

    def chain(handler: Handler, number: int) -> bool:
        if not handler.path.startswith("/index/"):
            return False
        name = handler.path.removeprefix("/index/").removesuffix(".jsonl")
        after = f"n{int(name[1:]) + 1 if name != 'acme-app' else 0}"
        handler.answer(200, made_up(name, "1", after))
        return True

    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "registry.json").write_text('{"spec":1,"name":"acme"}')
    with serve(tmp_path / "acme") as server:
        server.fault = chain
        Path("modpkg.toml").write_text(
            f"[app]\nname = 'app'\n[registries]\nacme = '{server.url}'\n[dependencies]\n{APP}"
        )
        status, _, err = run(capfd, "lock")
        assert (status, "asks for more than 30 names of modules" in err) == (1, True), err
        assert len(server.seen) < 50
