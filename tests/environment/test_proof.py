"""Proving what is installed: changes of what is mapped are found, whatever records say of it."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from modpkg.compose.last_places import last_places_apart
from modpkg.core.digests import digest_file, parse_digest
from modpkg.core.installed import InstalledModel, TensorRef, files_in, read_model
from modpkg.core.interface import weights_digest
from modpkg.core.names import parse_requirement
from modpkg.core.sealed import seal
from modpkg.environment.install import install
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import find_project
from modpkg.environment.proof import Proof, prove
from modpkg.environment.workspace import RegistryOptions, Workspace
from modpkg.runtime.installed import find_model
from modpkg.trust.log import checking
from modpkg.trust.log.entries import logged_path
from tests import tiny
from tests.cli.test_everywhere import run
from tests.command import check_shape
from tests.raising import raises
from tests.trust.log.logged import LoggedRegistry

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def app(home: Path, tmp_path: Path) -> Path:
    """An app with ``talker``, and ``tiny-lora`` on its base, both composed."""
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    Path("modpkg.toml").write_text('[app]\nname = "app"\n')
    asked = [parse_requirement(text) for text in ("talker", "tiny-lora")]
    install(Workspace(find_project()), InstallRequest(add=asked))
    find_model("tiny-lora", Workspace())
    return Path.cwd()


def proof(*names: str, again: bool = False, offline: bool = False) -> Proof:
    return prove(Workspace(options=RegistryOptions(offline=offline)), names, again=again)


def model_folder(app: Path, name: str = "talker") -> Path:
    return app / ".modpkg" / "current" / "models" / name


def rewrite(folder: Path, change: Callable[[InstalledModel], InstalledModel]) -> None:
    """Change a model's record as whoever changes its files would: with a seal, and digests."""
    model = change(read_model(folder))
    (folder / "model.json").write_bytes(
        seal(msgspec.structs.replace(model, files=files_in(folder)))
    )


def flip(path: Path, at: int) -> None:
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_what_is_installed_is_proven(app: Path, capfd: Capture) -> None:
    found = proof()
    assert not found.flaws
    by = {model.name: model.proven_by for model in found.models}
    assert by == {"talker": "lock", "tiny-lora": "recomposed"}  # the lock has none of the second
    assert [module.absent for module in found.modules] == [0, 0, 0]
    assert proof(offline=True) == found
    only = proof("talker", again=True)
    assert [(model.name, model.proven_by) for model in only.models] == [("talker", "recomposed")]
    assert {module.name for module in only.modules} == {"talker", "tiny", "tiny-lora"}
    assert [one.name for one in proof("tiny").modules] == ["tiny"]
    status, out, _ = run(capfd, "verify", "--json")
    document = json.loads(out)
    check_shape(document, "verify")
    assert (status, document["bytes"]) == (0, found.bytes)
    status, out, _ = run(capfd, "verify", "talker", "--recompose")
    assert (status, "composed again" in out) == (0, True)
    assert not list((app.parent).rglob("*recomposed*"))


def test_changed_weights_are_found_whatever_the_record_says(app: Path, capfd: Capture) -> None:
    folder = model_folder(app)
    name = "model.layers.0.self_attn.q_proj.weight"
    ref = read_model(folder).tensors[name]
    pack = app / ".modpkg" / "packs" / ref.file
    flip(pack, ref.offset)
    found = proof("talker")
    assert [(flaw.of, flaw.path) for flaw in found.flaws] == [("talker 2.0", str(pack))]
    assert run(capfd, "verify", "talker")[0] == 1

    def agreeing(model: InstalledModel) -> InstalledModel:
        digest = digest_file(pack, ref.offset, ref.length)
        tensors = {**model.tensors, name: msgspec.structs.replace(ref, digest=digest)}
        return msgspec.structs.replace(model, tensors=tensors, result=weights_digest(tensors))

    rewrite(folder, agreeing)
    found = proof("talker")
    assert "modpkg.lock has another result" in found.flaws[0].reason
    assert found.models[0].last_places == {name: 1}
    assert (found.models[0].proven_by, len(found.flaws)) == (None, 2)


def test_nothing_proves_weights_with_other_bytes_until_they_are_repaired(
    app: Path, capfd: Capture
) -> None:
    ref = read_model(model_folder(app)).tensors["model.layers.0.self_attn.q_proj.weight"]
    flip(app / ".modpkg" / "packs" / ref.file, ref.offset)
    for more in ((), ("--recompose",)):
        status, out, _ = run(capfd, "verify", "talker", *more, "--json")
        found = json.loads(out)
        assert (status, len(found["flaws"]), found["models"][0]["proven_by"]) == (1, 1, None)
        out = run(capfd, "verify", "talker", *more)[1]
        assert "nothing proves its weights" in out
    command = found["flaws"][0]["reason"].split("'")[1].split()
    assert run(capfd, *command[1:])[0] == 0
    assert proof("talker", again=True).models[0].proven_by == "recomposed"
    assert not proof().flaws


def test_weights_that_the_lock_does_not_have_are_composed_again(app: Path) -> None:
    folder = model_folder(app, "tiny-lora")
    name = "model.layers.1.self_attn.v_proj.weight"
    other = read_model(folder).tensors["model.layers.0.self_attn.v_proj.weight"]

    def exchanged(model: InstalledModel) -> InstalledModel:
        tensors = {**model.tensors, name: other}
        return msgspec.structs.replace(model, tensors=tensors, result=weights_digest(tensors))

    rewrite(folder, exchanged)
    found = proof("tiny-lora")
    assert (found.models[0].proven_by, [*found.models[0].last_places]) == (None, [name])
    assert len(found.flaws) == 1


@pytest.mark.parametrize("change", ["config.json", "more.json", "tensor", "recipe", "key", "link"])
def test_what_lies_beside_the_weights_is_that_of_the_releases(app: Path, change: str) -> None:
    folder = model_folder(app)
    if change.endswith(".json"):
        path = folder / change
        path.unlink(missing_ok=True)
        path.write_text('{"model_type": "llama"}')
        rewrite(folder, lambda model: model)
    elif change == "link":
        (folder / "config.json").unlink()
        (folder / "config.json").symlink_to(app / "modpkg.toml")
    else:
        wrong = {
            "tensor": {"tensors": {}, "result": weights_digest({})},
            "recipe": {"recipe": {"base": "tiny", "steps": []}},
            "key": {"key": "sha256:" + "0" * 64},
        }[change]
        rewrite(folder, lambda model: msgspec.structs.replace(model, **wrong))
    flaws = proof("talker").flaws
    assert flaws
    assert {flaw.of for flaw in flaws} == {"talker 2.0"}
    if change.endswith(".json"):
        assert flaws[0].path == str(model_folder(app).resolve() / change)


def test_changed_bytes_of_the_store_are_found(app: Path, home: Path) -> None:
    packs = sorted((home / "store" / "packs").rglob("*"), key=lambda path: path.stat().st_size)
    flip(packs[-1], packs[-1].stat().st_size - 1)
    (flaw,) = proof("tiny").flaws
    assert (flaw.of, flaw.path) == ("tiny 1.0", str(packs[-1]))
    assert flaw in proof().flaws


def test_parts_that_the_store_lacks_are_counted(app: Path, home: Path) -> None:
    from modpkg.store.garbage import clear
    from modpkg.store.store import Store

    store = Store(home / "store")
    with store.lock(exclusive=True):
        clear(store)
    found = proof("talker")  # its weights are its own links
    assert (found.flaws, found.models[0].proven_by) == ([], "lock")
    assert all(module.absent for module in found.modules if module.name != "talker")
    assert proof("talker", again=True).models[0].proven_by == "recomposed"  # fetched again


def test_what_an_older_engine_composed_is_the_result_that_is_locked(
    app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modpkg.compose.plan.COMPOSE_ENGINE", "next")
    monkeypatch.setattr("modpkg.environment.proof.COMPOSE_ENGINE", "next")
    found = proof("talker")
    assert (found.flaws, found.models[0].proven_by) == ([], "lock")


def test_a_result_that_an_earlier_lock_left_proves_nothing(app: Path) -> None:
    lock = app / "modpkg.lock"
    text = re.sub(r"(?m)^(inputs|result) = .*$", rf'\1 = "sha256:{"0" * 64}"', lock.read_text())
    lock.write_text(text)
    install(Workspace(find_project()), InstallRequest(frozen=True))
    assert lock.read_text() == text
    found = proof("talker")
    assert (found.flaws, found.models[0].proven_by) == ([], "recomposed")


def test_only_what_the_lock_installed_is_proven(app: Path) -> None:
    lock = app / "modpkg.lock"
    lock.write_text(lock.read_text().replace('\nregistry = "', '\nregistry = "x'))
    with raises("M570", match="modpkg install"):
        proof()
    with raises("M504"):
        (app / "modpkg.lock").write_text((app / ".modpkg" / "current" / "modpkg.lock").read_text())
        proof("nothing")


def test_last_places(tmp_path: Path) -> None:
    path = tmp_path / "floats"
    rows = [(0.0, 1.0), (-0.0, 1.0), (0.0, 1.0 + 3 * 2**-23), (-1e-45, 1.0)]
    path.write_bytes(b"".join(struct.pack("<2f", *row) for row in rows))
    refs = [TensorRef(str(path), 8 * at, 8, "F32", [2], "") for at in range(4)]
    assert [last_places_apart(refs[0], one) for one in refs] == [0, 1, 3, 2]
    whole = msgspec.structs.replace(refs[0], dtype="I32")
    assert last_places_apart(whole, whole) is None


def test_releases_are_in_the_log_of_their_registry(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "SMALL", 0)  # where releases are is asked for, as of a large log
    registry = LoggedRegistry(tmp_path / "logged").begin()
    lines = [registry.publish(name) for name in ("words", "tags")]
    monkeypatch.chdir(tmp_path)
    Path("modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\nwords = "*"\ntags = "*"\n'
        f'[registries]\ndefault = "{registry.folder}"\n'
    )
    install(Workspace(find_project()), InstallRequest())
    assert {one.name: one.logged for one in proof().modules} == {"words": True, "tags": True}
    (registry.folder / logged_path(parse_digest(lines[1].release))).unlink()
    found = proof()
    assert {one.name: one.logged for one in found.modules} == {"words": True, "tags": False}
    assert [flaw.of for flaw in found.flaws] == ["tags 1.0"]
    (registry.folder / "log" / "checkpoint").unlink()
    assert {flaw.of for flaw in proof().flaws} == {"tags 1.0", "words 1.0"}
    assert not proof("words", offline=True).modules[0].logged
