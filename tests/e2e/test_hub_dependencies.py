"""Models of a hub in an app's [dependencies]: locked by commit and digest, and installed so."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.numpy import load, save

import modpkg
import modpkg.community.modules.hub_checkout as hub_checkout
from modpkg.core.hub_address import HubAddress
from modpkg.environment.hub_release import version_of
from modpkg.resolve.lock import Lock, read_lock
from tests import forkserver
from tests.command import modpkg as modpkg_command
from tests.e2e.remedies import Run, fails, works
from tests.faults import COUNT
from tests.hub_server import TOKEN, Hub, hub_server
from tests.interop.test_hub_import import base_files
from tests.tiny import ADAPTER_CONFIG, adapter_weights, base_weights

KILLS = 3
"""How many changes to the file system a command is killed at."""
APP = """\
[app]
name = "app"

[dependencies]
base = { hub = "org/base", rev = "main" }
polite = { hub = "org/polite" }
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with hub_server() as state:
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        state.repository("org/base", base_files())
        state.repository("org/polite", adapter_files())
        yield state


def adapter_files(base: str = "org/base", seed: int = 1) -> dict[str, bytes]:
    config = ADAPTER_CONFIG | {"base_model_name_or_path": base, "task_type": "CAUSAL_LM"}
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": adapter_weights(seed),
        "README.md": b"---\nlicense: mit\n---\n",
    }


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "modpkg.toml").write_text(APP)
    monkeypatch.chdir(folder)
    return folder


def lock_of(app: Path) -> Lock:
    lock = read_lock(app / "modpkg.lock")
    assert lock is not None
    return lock


def on_another_machine(app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away all but the manifest and the lock."""
    shutil.rmtree(app / ".modpkg", ignore_errors=True)
    monkeypatch.setenv("MODPKG_HOME", str(tmp_path / f"home-{len([*tmp_path.iterdir()])}"))


def test_locked_installed_and_loaded(
    hub: Hub, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    sent = hub.sent
    works(run, "lock")
    lock, text = lock_of(app), (app / "modpkg.lock").read_text()
    base, polite = lock.find("base"), lock.find("polite")
    assert base is not None
    assert polite is not None
    head = hub.repositories["org/base"].head.sha
    assert (base.registry, base.address) == ("org/base", f"hf://org/base@{head}")
    assert base.version == version_of(HubAddress("org/base", head))
    assert (polite.kind, polite.requires) == ("adapter", [f"base=={base.version}"])
    works(run, "lock")
    assert (app / "modpkg.lock").read_text() == text
    works(run, "install")
    weights = len(base_weights()) + len(adapter_weights())
    assert hub.sent - sent < 1.2 * weights + 20_000  # each byte of weights once
    assert_same_as_peft(tmp_path)
    lock = lock_of(app)
    # Another machine has the lock alone, and the branches have moved.
    for name, files in (("org/base", base_files()), ("org/polite", adapter_files(seed=3))):
        files = {path: data.replace(b"org", b"ORG") for path, data in files.items()}
        hub.repositories[name].commit(files, title="y")
    on_another_machine(app, tmp_path, monkeypatch)
    sent = hub.sent
    works(run, "install", "--frozen")
    assert lock_of(app) == lock
    assert hub.sent - sent < 1.2 * weights + 20_000
    assert_same_as_peft(tmp_path)
    works(run, "install")
    assert lock_of(app) == lock


def assert_same_as_peft(tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folders = {"base": base_files(), "polite": adapter_files()}
    for name, files in folders.items():
        (tmp_path / "plain" / name).mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            (tmp_path / "plain" / name / path).write_bytes(data)
    tokens = torch.arange(8).reshape(1, 8)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "plain" / "base").eval()
    with torch.no_grad():
        assert torch.equal(modpkg.load("base")(tokens).logits, theirs(tokens).logits)
        adapted = PeftModel.from_pretrained(theirs, tmp_path / "plain" / "polite").eval()
        torch.testing.assert_close(modpkg.load("polite")(tokens).logits, adapted(tokens).logits)


def test_a_branch_that_moved(hub: Hub, app: Path, run: Run) -> None:
    works(run, "install")
    before = lock_of(app)
    assert "newest versions" in works(run, "outdated")
    head = hub.repositories["org/base"].commit(base_files(**{"model.safetensors": base_weights(5)}))
    works(run, "lock")
    assert lock_of(app) == before
    moved = version_of(HubAddress("org/base", head))
    rows = json.loads(works(run, "outdated", "--json"))["modules"]
    assert (rows[0]["name"], rows[0]["update"]) == ("base", moved)
    sent = hub.sent
    works(run, "outdated")
    assert hub.sent - sent < 20_000  # what is newer is reported, and not fetched
    assert "newest versions" in works(run, "outdated", "--offline")
    works(run, "update", "polite")
    assert lock_of(app).module == before.module
    works(run, "update")
    after = lock_of(app)
    assert {row["name"]: row["update"] for row in rows} == {m.name: m.version for m in after.module}
    assert after.find("polite") != before.find("polite")  # it is made against its base
    told = works(run, "rollback")
    assert before.module[0].version in told
    works(run, "tree")
    # A revision that is written is asked for.
    manifest = app / "modpkg.toml"
    commit = before.module[0].address.partition("@")[2]
    manifest.write_text(manifest.read_text().replace('"main"', f'"{commit}"'))
    works(run, "lock")
    assert lock_of(app).module[0].address == before.module[0].address
    hub.repositories.clear()
    works(run, "lock", "--upgrade-package", "base")


def test_other_bytes_under_a_commit(
    hub: Hub, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    works(run, "install")
    files = hub.repositories["org/base"].head.files
    files["model.safetensors"] = base_weights(5)
    works(run, "lock")
    # What the store has lost is read from the hub, and has to be the same.
    shutil.rmtree(Path(tmp_path / "home" / "store"))
    shutil.rmtree(app / ".modpkg")
    fails(run, "M501", "install", "--frozen", "--offline")
    assert "modpkg vendor" in fails(run, "M877", "install", "--frozen")
    on_another_machine(app, tmp_path, monkeypatch)
    told = fails(run, "M886", "install", "--frozen")
    assert ("org/base" in told, "accept" in told) == (True, False)
    fails(run, "M886", "install")
    told = fails(run, "M416", "lock")
    assert "--accept-changed base" in told
    assert "somebody has replaced them" in told
    # A lock of an older modpkg does not tell what the hub listed.
    path = app / "modpkg.lock"
    text = path.read_text()
    kept = [line for line in text.splitlines() if not line.startswith("listing")]
    path.write_text("\n".join(kept) + "\n")
    assert "other files" in fails(run, "M850", "install", "--frozen")
    path.write_text(text)
    works(run, "lock", "--accept-changed", "base", "--accept-changed", "polite")
    works(run, "install", "--frozen")


def test_what_was_made_is_mended(
    hub: Hub, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    works(run, "install")
    lock = lock_of(app)
    shutil.rmtree(app / ".modpkg")
    works(run, "install", "--frozen", "--offline")
    (made,) = (tmp_path / "home" / "hub").glob("*/org--base@*/base")
    shutil.rmtree(made / "blobs")
    fails(run, "M501", "install", "--offline", "--upgrade-package", "base")
    works(run, "lock")
    assert (lock_of(app), (made / "blobs").is_dir()) == (lock, True)
    on_another_machine(app, tmp_path, monkeypatch)
    fails(run, "M501", "install", "--frozen", "--offline")


def test_added_and_removed(hub: Hub, app: Path, run: Run) -> None:
    (app / "modpkg.toml").write_text('[app]\nname = "app"\n')
    hub.repositories["org/base"].commit({**base_files(), "README.md": b"# No licence\n"})
    told = works(run, "add", "hf://org/base@main", "--name", "tiny")
    assert "tiny: the licence is unknown (its README has none)\n" in told
    text = (app / "modpkg.toml").read_text()
    assert 'tiny = { hub = "org/base", rev = "main" }' in text
    works(run, "add", "hf://org/polite")
    assert 'polite = { hub = "org/polite" }' in (app / "modpkg.toml").read_text()
    assert {module.name for module in lock_of(app).module} == {"tiny", "polite"}
    for command in (["list"], ["tree"], ["why", "tiny"], ["info", "polite"], ["licenses"]):
        assert "1.0.0.post" in works(run, *command) or command == ["licenses"]
    assert "org/base" in works(run, "info", "tiny")
    fails(run, "M852", "install", "tiny>=1")
    works(run, "install", "tiny")
    works(run, "remove", "polite")
    works(run, "remove", "tiny")
    assert lock_of(app).module == []
    fails(run, "M901", "add", "tiny", "--name", "tiny", status=2)
    fails(run, "M901", "add", "hf://org/a", "hf://other/a", status=2)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('polite = { hub = "org/polite" }', "trained on org/base, and no dependency is"),
        ('base = { hub = "org/base", against = "x" }\nx = { hub = "org/base" }', "remove"),
        ('a = { hub = "org/polite", against = "b" }\nb = { hub = "org/polite", against = "a" }',
         "in turn"),
        ('base = { hub = "org/base" }\nb = { hub = "org/polite" }\n'
         'a = { hub = "org/twice", against = "b" }', "has no weights that"),
        ('a = { hub = "org/base" }\nb = { hub = "org/base", rev = "old" }\n'
         'c = { hub = "org/polite" }',
         "several dependencies are"),
    ],
)  # fmt: skip
def test_bases_that_are_none(hub: Hub, app: Path, run: Run, lines: str, said: str) -> None:
    hub.repository("org/twice", adapter_files("/home/me/base"))
    repository = hub.repositories["org/base"]
    repository.branches["old"] = repository.head.sha
    repository.commit({**base_files(), "README.md": b"# New\n"})
    (app / "modpkg.toml").write_text(f'[app]\nname = "app"\n[dependencies]\n{lines}\n')
    assert said in fails(run, "M851", "lock")


def test_a_base_under_two_names(hub: Hub, app: Path, run: Run) -> None:
    told = works(run, "install")
    assert "(0 B fetched" not in told
    locked = lock_of(app).find("polite")
    works(run, "add", "hf://org/base@main", "--name", "also")
    assert lock_of(app).find("polite") == locked
    hub.repositories["org/base"].commit(base_files(**{"model.safetensors": base_weights(5)}))
    works(run, "remove", "also")
    told = works(run, "update", "--dry-run")
    assert "came of a hub already" in told


def test_a_base_of_a_registry(
    hub: Hub, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    from tests import tiny

    tiny.publish(tiny.write_base(tmp_path / "projects" / "tiny"), tmp_path / "kept")
    (app / "modpkg.toml").write_text(
        f'[app]\nname = "app"\n[registries]\ndefault = "{tmp_path / "kept"}"\n[dependencies]\n'
        'tiny = ">=1"\npolite = { hub = "org/polite", against = "tiny==1.0" }\n'
    )
    works(run, "install")
    assert "exact" in works(run, "info", "polite")
    # A name that was a hub's, and is of a registry that a variable names.
    monkeypatch.setenv("MODPKG_REGISTRY", str(tmp_path / "kept"))
    (app / "modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\ntiny = {hub = "org/base"}\n'
    )
    (app / "modpkg.lock").unlink()
    works(run, "lock")
    (app / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\ntiny = "*"\n')
    assert "in place of" not in works(run, "lock", "--accept-changed", "tiny")


def test_what_is_refused(hub: Hub, app: Path, run: Run) -> None:
    hub.repositories["org/base"].gated = True
    fails(run, "M861", "lock")
    hub.repository("org/base", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    assert "pickles" in fails(run, "M801", "lock")
    hub.repositories.clear()
    fails(run, "M862", "lock")
    fails(run, "M501", "lock", "--offline")
    assert not (app / "modpkg.lock").exists()


def test_vendored(
    hub: Hub, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    works(run, "lock")
    told = works(run, "vendor", app / "vendored")
    lines = [line.strip() for line in told.splitlines() if line.startswith("  ")]
    assert '[registry."hf://org/base"]' in lines
    on_another_machine(app, tmp_path, monkeypatch)
    home = Path(os.environ["MODPKG_HOME"])
    home.mkdir()
    (home / "config.toml").write_text("\n".join(lines))
    hub.repositories.clear()
    works(run, "install", "--frozen", "--offline")
    assert not (home / "hub").exists()


def test_what_is_up_to_date_needs_no_hub(hub: Hub, app: Path, tmp_path: Path, run: Run) -> None:
    works(run, "install")
    shutil.rmtree(tmp_path / "home" / "hub")
    hub.seen.clear()
    (app / ".modpkg" / "yanked.json").unlink(missing_ok=True)
    assert "Nothing to do" in works(run, "install", "--offline")
    (pack, *_) = (tmp_path / "home" / "store" / "packs").rglob("??/*")
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)
    assert not hub.seen
    assert "repaired" in works(run, "store", "verify")
    assert hub.seen
    works(run, "store", "gc", "--older-than", "1 hour")
    (place,) = (tmp_path / "home" / "hub").glob("*/org--base@*/")
    os.utime(place, (1, 1))
    works(run, "store", "gc")
    assert not place.exists()


def test_of_ones_own_environment(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    works(run, "install", "hf://org/base", "hf://org/polite")
    assert "polite" in works(run, "list")


def test_an_update_that_is_tested(hub: Hub, app: Path, run: Run) -> None:
    works(run, "install")
    hub.repositories["org/base"].commit(base_files(**{"model.safetensors": base_weights(5)}))
    before = lock_of(app).module
    old = f"grep {before[0].version} $MODPKG_PROJECT/modpkg.lock"
    assert "stays at" in works(run, "update", "--test", old)
    assert lock_of(app).module == before
    works(run, "update", "--test", "true")
    assert {m.name: m.version for m in lock_of(app).module} != {m.name: m.version for m in before}


def test_weights_that_the_import_has_changed(hub: Hub, app: Path, tmp_path: Path, run: Run) -> None:
    """They are not those of the hub, so that they stay here."""
    files = base_files()
    tensors = load(files["model.safetensors"])
    tensors["no.such.weight"] = tensors["model.norm.weight"]
    hub.repository("org/base", files | {"model.safetensors": save(tensors, {"format": "pt"})})
    assert "no.such.weight" in works(run, "install")
    shutil.rmtree(tmp_path / "home" / "store")
    shutil.rmtree(app / ".modpkg")
    sent = hub.sent
    works(run, "install", "--frozen")
    assert hub.sent - sent < len(base_weights())


def test_made_by_another_version(
    hub: Hub, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    works(run, "lock")
    lock = (app / "modpkg.lock").read_text()
    shutil.rmtree(tmp_path / "home")
    monkeypatch.setattr(hub_checkout, "_BUILT_WITH", "another")
    (app / "modpkg.lock").unlink()
    works(run, "lock")
    assert (app / "modpkg.lock").read_text() != lock
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("MODPKG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(app)
    (app / "modpkg.lock").write_text(lock)
    sent = hub.sent
    fails(run, "M850", "install", "--frozen")  # by this version, as far as is known
    assert hub.sent == sent
    for made in (tmp_path / "home" / "hub").glob("*/*/*/made-with"):
        made.write_text("modpkg 0.0")
    works(run, "install", "--frozen")


def test_a_constraint_holds_a_commit(hub: Hub, app: Path, run: Run) -> None:
    works(run, "lock")
    before = lock_of(app).module
    hub.repositories["org/base"].commit(base_files(**{"model.safetensors": base_weights(5)}))
    manifest = app / "modpkg.toml"
    held = f'[constraints]\nbase = "=={before[0].version}"\n'
    manifest.write_text(manifest.read_text() + held)
    works(run, "lock", "--upgrade")
    assert lock_of(app).module == before


def test_a_gated_model_and_its_token(
    hub: Hub, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    hub.repositories["org/base"].gated = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    works(run, "install")
    shutil.rmtree(tmp_path / "home" / "store")
    shutil.rmtree(app / ".modpkg")
    hub.seen.clear()
    works(run, "install", "--frozen")
    sent = {path for _, path, headers in hub.seen if headers.get("authorization")}
    assert any("model.safetensors" in path for path in sent)
    assert not any("signature=" in path for path in sent)  # where large files lie


def test_two_at_a_time(hub: Hub, app: Path, tmp_path: Path) -> None:
    apps = [app, tmp_path / "second"]
    shutil.copytree(*apps)
    sent = hub.sent
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(lambda folder: modpkg_command("lock", cwd=folder), apps):
            pass
    assert lock_of(apps[0]) == lock_of(apps[1])
    assert hub.sent - sent < 1.2 * (len(base_weights()) + len(adapter_weights())) + 20_000


def test_killed_while_it_is_made(
    hub: Hub, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(fatal: int) -> int:
        """Lock with a new home, and die at a change to the file system."""
        home = tmp_path / "w" / f"home-{fatal}"
        monkeypatch.setenv("MODPKG_HOME", str(home))
        (app / "modpkg.lock").unlink(missing_ok=True)
        home.mkdir(parents=True)
        faulty = ("-m", "tests.faults", str(fatal), str(home.parent), "lock")
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        return forkserver.run(*faulty, cwd=app, env=dict(os.environ)).returncode

    assert lock(0) == 0
    wanted = lock_of(app)
    points = int((tmp_path / "w" / COUNT).read_text())
    for number in range(KILLS):
        killed = lock(1 + int((number + 0.5) * points / KILLS))
        assert killed == -signal.SIGKILL
        modpkg_command("lock", cwd=app)
        assert lock_of(app) == wanted
        modpkg_command("install", "--offline", cwd=app)
        shutil.rmtree(app / ".modpkg")
        home = Path(os.environ["MODPKG_HOME"])
        assert not [path for path in (home / "downloads").glob("org--*") if path.is_dir()]
