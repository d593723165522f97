"""What registries, locks and environments say to do works: addresses, damage, space, versions."""

from __future__ import annotations

import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
from packaging.version import Version

from modpkg.environment import policy
from tests import tiny
from tests.changing import numbers, write
from tests.e2e.remedies import Run, fails, remedy_of, repaired, works
from tests.modules import publish_collection, write_module
from tests.registry.servers import failing, serve
from tests.tiny import APP

INFO = "registry.json"


def blob_of(registry: Path, name: str) -> Path:
    """Return the release record of the only release of a module."""
    line = json.loads((registry / "index" / f"{name}.jsonl").read_text().splitlines()[-1])
    digest = line["release"].removeprefix("sha256:")
    return next(registry.glob(f"blobs/sha256/**/{digest}"))


def replaced(path: Path, data: bytes) -> bytes:
    """Write a file that may be read-only, and return what it had."""
    old = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data)
    return old


# Registries ---------------------------------------------------------------------------------


def test_m302_of_a_server_that_is_down(
    registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(registry) as server:
        monkeypatch.setenv("MODPKG_REGISTRY", server.url)
        works(run, "install")
        server.fault = failing(999, 418)
        text = fails(run, "M302", "lock", "--upgrade")
        assert "try again, or use --offline" in text
        works(run, "lock", "--upgrade", "--offline")
        server.fault = lambda handler, number: False
        works(run, "lock", "--upgrade")


@pytest.mark.parametrize(("status", "code"), [(410, "M313"), (401, "M314")])
def test_m313_and_m314_of_an_answer(
    status: int, code: str, registry: Path, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODPKG_REGISTRY")
    with serve(registry) as server, serve(registry) as moved:
        manifest = Path("modpkg.toml")
        manifest.write_text(APP + f'[registries]\ndefault = "{server.url}"\n')
        server.fault = failing(999, status)
        text = fails(run, code, "install")
        if code == "M313":
            assert "write it under [registries]" in text
            manifest.write_text(APP + f'[registries]\ndefault = "{moved.url}"\n')
        else:
            assert f'{home / "config.toml"}, under [registry."{server.url}"]' in text
            home.mkdir(exist_ok=True)
            (home / "config.toml").write_text(
                f'[registry."{server.url}"]\nusername = "u"\npassword = "p"\n'
            )
            (home / "config.toml").chmod(0o600)
            server.fault = lambda handler, number: (
                "authorization" not in map(str.lower, handler.headers)
                and handler.answer(401) is None
            )
        works(run, "install")


def test_m316_of_a_password_in_an_address(registry: Path, home: Path, run: Run) -> None:
    text = fails(run, "M316", "lock", "--registry", "https://u:p@models.example/r")
    assert "u:p" not in text
    assert str(home / "config.toml") in text


def test_m303_of_a_newer_registry(registry: Path, run: Run) -> None:
    info = json.loads((registry / INFO).read_text())
    old = replaced(registry / INFO, json.dumps(info | {"spec": 99}).encode())
    assert "update modpkg" in fails(run, "M303", "install")
    (registry / INFO).write_bytes(old)
    works(run, "install")


@pytest.mark.parametrize("code", ["M305", "M306"])
def test_m305_and_m306_of_a_damaged_registry(code: str, registry: Path, run: Run) -> None:
    record = blob_of(registry, "tiny")
    old = replaced(record, b"x" * len(record.read_bytes()))
    if code == "M306":
        record.unlink()
    text = fails(run, code, "install")
    assert "sk the registry's owner to restore it" in text
    record.write_bytes(old)
    works(run, "install")


def test_m310_of_an_index_that_contradicts(registry: Path, run: Run) -> None:
    index = registry / "index" / "tiny.jsonl"
    line = json.loads(index.read_text())
    old = replaced(index, (json.dumps(line | {"requires": ["several"]}) + "\n").encode())
    assert "Ask the registry's owner to restore it" in fails(run, "M310", "install")
    index.write_bytes(old)
    works(run, "install")


def test_m309_of_a_registry_that_is_no_folder(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = write_module(tmp_path / "new", "new")
    works(run, "build", folder)
    with serve(registry) as server:
        text = fails(run, "M309", "publish", folder, "--registry", server.url)
    assert "set --registry to a folder" in text
    works(run, "publish", folder, "--registry", registry)
    (tmp_path / "file").touch()
    fails(run, "M309", "publish", folder, "--registry", tmp_path / "file")
    fails(run, "M301", "yank", "tiny==1.0", "--registry", tmp_path / "none")


def test_m317_of_another_registry(registry: Path, tmp_path: Path, run: Run) -> None:
    works(run, "build", folder := tiny.write_base(tmp_path / "new", "2.0"))
    text = fails(run, "M317", "publish", folder, "--registry", tmp_path / "other")
    works(run, *remedy_of(text), folder)
    works(run, "publish", folder, "--registry", tmp_path / "other")


def test_m329_of_a_build_that_is_damaged(registry: Path, tmp_path: Path, run: Run) -> None:
    """Whoever publishes has nobody to ask for it: it is built again."""
    folder = write(tmp_path / "new", numbers("a", count=20), "new")
    works(run, "build", folder)
    blobs = [path for path in (folder / "dist" / "blobs").rglob("*") if path.is_file()]
    for number, blob in enumerate(blobs):
        old = replaced(blob, blob.read_bytes()[:-1] + b"?")
        status, text = run("publish", folder, "--registry", tmp_path / f"registry-{number}")
        assert (status, "error[M30" in text, "build" in text) == (1, False, True), text
        blob.write_bytes(old)
    blob_of(folder / "dist", "new").unlink()
    text = fails(run, "M329", "publish", folder, "--registry", registry)
    works(run, *remedy_of(text), folder)
    works(run, "publish", folder, "--registry", registry)


def test_m318_of_an_alias_that_is_a_folder(registry: Path, run: Run) -> None:
    Path("modpkg.toml").write_text(APP + f'[registries]\nacme = "{registry}"\n')
    Path("acme").mkdir()
    text = fails(run, "M318", "lock", "--registry", "acme")
    assert "write --registry ./acme" in text
    works(run, "lock", "--registry", str(registry))


def test_m319_of_two_registries(registry: Path, tmp_path: Path, run: Run) -> None:
    other = tmp_path / "more" / "other"
    publish_collection(other, "core")
    publish_collection(other, "top", requires={"core": "*"})
    publish_collection(registry, "core")
    publish_collection(registry, "low", requires={"core": "*"})
    Path("modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\nlow = "*"\n'
        'top = { version = "*", registry = "acme" }\n'
        f'[registries]\nacme = "{other}"\ndefault = "{registry}"\n'
    )
    text = fails(run, "M319", "lock")
    works(run, *remedy_of(text))
    works(run, "lock")


def test_m320_of_a_bucket(
    registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    text = fails(run, "M320", "lock", "--registry", "az://container/registry")
    assert "set AZURE_STORAGE_ACCOUNT" in text


# Locks --------------------------------------------------------------------------------------


def test_m401_shows_a_remedy_that_was_tried(registry: Path, run: Run) -> None:
    Path("modpkg.toml").write_text(APP.replace('tiny = "*"', 'tiny = ">=2"'))
    text = fails(run, "M401", "lock")
    assert "drop `>=2` from tiny in modpkg.toml:4" in text
    Path("modpkg.toml").write_text(APP)
    works(run, "lock")


def test_m401_names_all_that_is_to_be_removed(registry: Path, run: Run) -> None:
    publish_collection(registry, "lib", requires={"several": ">=2"})
    model = APP[APP.index("[models") :]
    users = model.replace("tiny-lora", "lib") + model.replace("tiny-lora", "lib").replace(
        "mine", "two"
    )
    dependencies = APP[: APP.index("[models")]
    Path("modpkg.toml").write_text(dependencies + 'lib = "*"\n' + users)
    text = fails(run, "M401", "lock")
    assert "remove lib in modpkg.toml:6 (and [models.mine] and [models.two], which use it)." in text
    Path("modpkg.toml").write_text(dependencies + 'lib = "*"\n' + model)
    assert "remove lib in modpkg.toml:6." in fails(run, "M401", "lock")
    Path("modpkg.toml").write_text(APP)
    works(run, "lock")


def test_a_drift_names_the_update_that_mends_it(registry: Path, tmp_path: Path, run: Run) -> None:
    works(run, "install")
    tiny.publish(tiny.write_base(tmp_path / "new", "1.1", seed=5), registry)
    works(run, "install", "tiny==1.1")
    text = Path("modpkg.toml").read_text().replace("==1.1", "*")
    Path("modpkg.toml").write_text(text)
    shutil.rmtree(".modpkg")
    said = works(run, "install")
    assert "An exact fit is allowed: run 'modpkg update tiny'" in said
    works(run, "update", "tiny")
    assert "tiny       1.0" in works(run, "list")
    Path("modpkg.toml").write_text(text.replace('"*"', '"==1.1"', 1))
    assert "An exact fit is allowed" not in works(run, "install")


def test_a_release_that_was_replaced_is_told(registry: Path, tmp_path: Path, run: Run) -> None:
    works(run, "lock")
    other = publish_collection(tmp_path / "other", "tiny-lora")
    index = registry / "index" / "tiny-lora.jsonl"
    line = json.loads(index.read_text())
    replaced(index, (json.dumps(line | {"release": other.release}) + "\n").encode())
    shutil.copytree(tmp_path / "other" / "blobs", registry / "blobs", dirs_exist_ok=True)
    index.write_bytes((tmp_path / "other" / "index" / "tiny-lora.jsonl").read_bytes())
    clause = "its registry now has another release under that version"
    assert f"tiny-lora  1.0 ({clause})" in works(run, "outdated")
    assert f"Locked:    1.0 ({clause})" in works(run, "info", "tiny-lora")
    assert json.loads(works(run, "info", "tiny", "--json"))["replaced"] is None


@pytest.mark.parametrize("remedy", ["correct", "lock"])
def test_m413_of_an_alias_that_leads_elsewhere(
    remedy: str,
    registry: Path,
    tmp_path: Path,
    home: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MODPKG_REGISTRY")
    shutil.copytree(registry, tmp_path / "more")
    info = json.loads((registry / INFO).read_text())
    replaced(tmp_path / "more" / INFO, json.dumps(info | {"name": "more"}).encode())
    manifest = Path("modpkg.toml")
    manifest.write_text(right := APP + f'[registries]\ndefault = "{registry}"\n')
    works(run, "install")
    shutil.rmtree(home)
    shutil.rmtree(".modpkg")
    manifest.write_text(right.replace(str(registry), str(tmp_path / "more")))
    text = fails(run, "M413", "install")
    assert "correct its address under [registries]" in text
    if remedy == "correct":
        manifest.write_text(right)
    else:
        told = fails(run, "M416", *remedy_of(text))
        flags = re.findall(r"--accept-changed [\w-]+", told)
        works(run, "lock", *" ".join(flags).split())
    works(run, "install")


def test_m414_without_strict(registry: Path, tmp_path: Path, run: Run) -> None:
    works(run, "install")
    tiny.publish(tiny.write_base(tmp_path / "new", "1.1", seed=5), registry)
    works(run, "install", "tiny==1.1")
    Path("modpkg.toml").write_text(APP)
    works(run, "install")
    fails(run, "M414", "install", "--frozen", "--strict")
    works(run, "install", "--frozen")
    repaired(run, "M414", "install", "--frozen", "--strict")


def test_m415_of_another_engine(
    registry: Path, tmp_path: Path, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, needed in (("1.0", "<99"), ("2.0", ">=0.1")):
        folder = write_module(tmp_path / version, "m", version)
        manifest = folder / "modpkg.toml"
        manifest.write_text(
            manifest.read_text().replace("license = ", f'requires-modpkg = "{needed}"\nlicense = ')
        )
        works(run, "build", folder)
        works(run, "publish", folder)
    Path("modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nm = "*"\n')
    works(run, "install")
    shutil.rmtree(".modpkg")
    monkeypatch.setattr(policy, "__version__", "0.0.1")
    monkeypatch.setattr(policy, "Policy", partial(policy.Policy, engine=Version("0.0.1")))
    repaired(run, "M415", "install")


# Environments -------------------------------------------------------------------------------


def test_m501_of_what_was_never_fetched(
    registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(registry) as server:
        monkeypatch.setenv("MODPKG_REGISTRY", server.url)
        assert "without it" in fails(run, "M501", "install", "--offline")
        works(run, "install")
        works(run, "install", "--offline")


def test_m502_of_a_full_disk(
    registry: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=0)
    small = str(tmp_path / "home")
    real = shutil.disk_usage
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage if str(path).startswith(small) else real(path)
    )
    text = fails(run, "M502", "install")
    assert "set MODPKG_HOME to a folder on another disk" in text
    monkeypatch.setenv("MODPKG_HOME", str(tmp_path / "elsewhere"))
    works(run, "install")


def test_m505_names_the_generations(registry: Path, run: Run) -> None:
    works(run, "install")
    fails(run, "M505", "rollback")
    assert "it has 1" in fails(run, "M505", "rollback", "--to", "9")
    works(run, "rollback", "--to", "1")


def test_m508_is_repaired_by_verify(registry: Path, run: Run, home: Path) -> None:
    works(run, "install", "tiny-lora")
    for pack in home.glob("store/packs/*/*"):
        data = bytearray(pack.read_bytes())
        data[-40] ^= 1
        replaced(pack, bytes(data))
    shutil.rmtree(home / "store" / "composed")
    print(run("compose"), run("store", "verify"), run("compose"))


def test_m509_of_a_file_system_without_locks(
    registry: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patch:
        import fcntl

        patch.setattr(fcntl, "flock", fail)
        patch.setattr(fcntl, "fcntl", fail)
        text = fails(run, "M509", "install")
    assert "Set MODPKG_HOME to a folder on a local disk" in text
    works(run, "install")
