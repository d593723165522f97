"""Installing: what changes, what stays, and that it is all or nothing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from shutil import rmtree

import pytest
from safetensors.torch import load_file, save_file

from modpkg.compose import result_packs
from modpkg.core.digests import digest_file
from modpkg.core.errors import (
    ModpkgError,
)
from modpkg.core.installed import read_installed
from modpkg.core.names import parse_requirement
from modpkg.environment.generations import Environment
from modpkg.environment.install import apply_install, roll_back
from modpkg.environment.locking import update_lock
from modpkg.environment.plan import InstallRequest, plan_install
from modpkg.environment.policy import with_flags
from modpkg.environment.project import Project, find_project
from modpkg.environment.repair import repair
from modpkg.environment.up_to_date import stale_reason
from modpkg.environment.workspace import Workspace
from modpkg.resolve.lock import read_lock
from modpkg.runtime.installed import find_model
from modpkg.store.contents import scan_store
from modpkg.store.corruption import Corruption, find_corruption
from modpkg.store.store import Store
from tests import tiny
from tests.command import modpkg
from tests.modules import publish_collection
from tests.raising import raises


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Path:
    """The embedded registry, with two versions of a model."""
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    return home / "registry"


def install(*requirements: str, project: Project | None = None, **options: object) -> Environment:
    project = project or find_project()
    added = [parse_requirement(text) for text in requirements]
    request = InstallRequest(add=added, **options)  # type: ignore[arg-type]
    workspace = Workspace(project)
    with workspace.environment.exclusive():
        apply_install(plan_install(workspace, request), frozen=request.frozen)
    return workspace.environment


def versions(environment: Environment) -> dict[str, str]:
    generation = environment.current()
    assert generation is not None
    assert environment.is_complete(generation)
    return {module.name: module.version for module in generation.modules}


def test_the_newest_is_installed_and_recorded(registry: Path) -> None:
    environment = install("talker")
    assert versions(environment) == {"talker": "2.0", "tiny": "1.0", "tiny-lora": "2.0"}
    project = find_project()
    assert 'talker = ">=2.0"' in project.text()
    lock = read_lock(project.lock_path)
    assert lock is not None
    assert [module.name for module in lock.module] == ["talker", "tiny", "tiny-lora"]
    assert [result.model for result in lock.composed] == ["talker"]
    assert environment.is_up_to_date(project.text(), project.lock_path.read_text())
    model = environment.model("talker")
    assert model.modules == {"tiny": "1.0", "tiny-lora": "2.0"}
    assert len({ref.file for ref in model.tensors.values()}) == 2


def test_the_lock_is_the_same_wherever_it_is_made(registry: Path, tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "modpkg.toml").write_text('[app]\nname = "x"\n[dependencies]\ntalker = "*"\n')
        project = Project(folder / "modpkg.toml")
        install(project=project)
        texts.append(project.lock_path.read_bytes())
    assert texts[0] == texts[1]
    assert str(tmp_path).encode() not in texts[0]


def test_an_installed_version_is_kept_until_asked(registry: Path, tmp_path: Path) -> None:
    install("talker>=1")
    tiny.publish(tiny.write_model(tmp_path / "t3", "3.0", "~=2.0"), registry)
    assert versions(install())["talker"] == "2.0"
    assert versions(install("talker"))["talker"] == "2.0"
    assert versions(install(upgrade=None))["talker"] == "3.0"


def test_a_requirement_can_be_lowered_and_removed(registry: Path) -> None:
    install("talker")
    assert versions(install("talker<2"))["talker"] == "1.0"
    environment = install(remove=["talker"])
    assert versions(environment) == {}
    with raises("M507"):
        install(remove=["talker"])


def test_a_failing_install_changes_nothing(registry: Path) -> None:
    environment = install("talker<2")
    project = find_project()
    before = (project.text(), project.lock_path.read_bytes(), environment.current_number())
    for requirement in ("talker>=9", "nothing-of-that-name"):
        with pytest.raises(ModpkgError):
            install(requirement)
    assert before == (
        project.text(),
        project.lock_path.read_bytes(),
        environment.current_number(),
    )


def test_rollback_returns_environment_lock_and_manifest(registry: Path) -> None:
    install("talker<2")
    install("talker>=2")
    project = find_project()
    generation, manifest_too = roll_back(project)
    assert manifest_too
    assert generation.number == 1
    environment = Environment(project.environment)
    assert versions(environment)["talker"] == "1.0"
    assert 'talker = "<2"' in project.text()
    assert environment.is_up_to_date(project.text(), project.lock_path.read_text())
    with raises("M505"):
        roll_back(project)
    assert roll_back(project, 2)[0].number == 2


def test_rollback_leaves_an_edited_manifest_alone(registry: Path) -> None:
    install("talker<2")
    install("talker>=2")
    project = find_project()
    project.write(project.text() + "# mine\n")
    assert roll_back(project)[1] is False
    assert "# mine" in project.text()


def test_the_last_generations_stay(registry: Path) -> None:
    for number in range(7):
        environment = install("talker<2" if number % 2 else "talker>=2")
    assert environment.numbers() == [3, 4, 5, 6, 7]
    assert len(list(environment.packs.iterdir())) == 3  # the base and two compositions


def test_frozen_installs_the_lock_or_fails(registry: Path, tmp_path: Path) -> None:
    install("talker<2")
    assert versions(install(frozen=True))["talker"] == "1.0"
    project = find_project()
    project.write(project.text().replace("<2", ">=2"))
    with raises("M412", match="talker>=2 was added or changed"):
        install(frozen=True)


def test_equal_inputs_are_composed_once(registry: Path, home: Path, tmp_path: Path) -> None:
    install("talker")
    composed = list((home / "store" / "composed").rglob("composed.json"))
    assert len(composed) == 1
    stamp = composed[0].stat().st_mtime_ns
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "modpkg.toml").write_text(
        '[app]\nname = "x"\n[dependencies]\ntalker = ">=2"\n'
    )
    install(project=Project(tmp_path / "other" / "modpkg.toml"))
    assert composed[0].stat().st_mtime_ns == stamp


def test_a_result_of_several_packs(
    registry: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is linked by a name of its own; one that is damaged is repaired, and its links too."""

    def weights() -> dict[str, bytes]:
        model = read_installed(environment.model_folder("talker"), environment.packs)
        return {
            name: (environment.packs / ref.file).read_bytes()[ref.offset :][: ref.length]
            for name, ref in model.tensors.items()
        }

    def corrupt() -> list[Corruption]:
        return find_corruption(workspace.store, scan_store(workspace.store))

    environment = install("talker")
    before = weights()
    rmtree(home / "store" / "composed")
    rmtree(environment.root)
    monkeypatch.setattr(result_packs, "PACK_BYTES", 1 << 9)
    environment = install("talker")
    assert weights() == before
    packs = [*(home / "store" / "composed").rglob("*-of-*.safetensors")]
    assert len(packs) > 1
    assert len({*environment.packs.glob("*-of-*.safetensors")}) == len(packs)
    packs[-1].chmod(0o644)
    with open(packs[-1], "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    assert weights() != before
    workspace = Workspace(find_project())
    (item,) = corrupt()
    assert item.path == str(packs[-1])
    assert repair(workspace, [item]) == [item]
    assert not corrupt()
    assert weights() == before


def test_an_app_has_its_own_models(registry: Path, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "modpkg.toml").write_text(
        '[app]\nname = "x"\n[dependencies]\ntiny = "*"\ntiny-lora = "~=1.0"\n'
        '[models.half]\nbase = "tiny"\n'
        'steps = [{ op = "lora", module = "tiny-lora", scale = 0.5 }]\n'
        '[models.half.task]\nkind = "text-generation"\n'
    )
    environment = install(project=Project(tmp_path / "app" / "modpkg.toml"))
    generation = environment.current()
    assert generation is not None
    assert generation.models == {"half": "0", "tiny": "1.0", "tiny-lora": "1.0"}
    assert environment.model("half").task == {
        "kind": "text-generation",
        "prompt": None,
        "system": None,
        "chat": None,
        "max_new_tokens": None,
        "temperature": None,
        "top_p": None,
        "stop": [],
    }


def test_extras_add_optional_steps(registry: Path, tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "p", "1.0", "~=1.0")
    text = (folder / "modpkg.toml").read_text()
    text = text.replace('"talker"', '"chatty"').replace('tiny-lora = "~=1.0"\n', "")
    (folder / "modpkg.toml").write_text(text + '[extras]\nloud = ["tiny-lora~=1.0"]\n')
    tiny.publish(folder, registry)
    assert install("chatty").model("chatty").modules == {"tiny": "1.0"}
    assert install("chatty[loud]").model("chatty").modules == {"tiny": "1.0", "tiny-lora": "1.0"}


def test_drift_is_allowed_and_reported_and_refused_under_strict(
    registry: Path, tmp_path: Path
) -> None:
    tiny.publish(tiny.write_base(tmp_path / "b", "1.1", seed=9), registry)
    generation = install("talker", "tiny>1").current()
    assert generation is not None
    fits = next(m.fits for m in generation.modules if m.name == "tiny-lora")
    assert fits == {
        "tiny 1.1": "drifted (4 of the 4 tensors it touches differ; how far they moved is "
        "unknown: the earlier ones are not in the store)"
    }
    with raises("M414", match=r"another tiny than tiny 1.1 \(4 of the 4 tensors"):
        install(frozen=True, strict=True)
    with raises("M401", match="allow tiny 1.0, which tiny-lora 2.0 fits exactly: drop `>1`"):
        install(strict=True)
    install("tiny>=1")
    assert versions(install())["tiny"] == "1.1", "the lock keeps it"
    assert versions(install(strict=True))["tiny"] == "1.0"


def test_a_conflict_tells_the_command_line_from_the_file_as_it_is(registry: Path) -> None:
    """A line that an edit would move is reported with its number in the file."""
    publish_collection(registry, "old", requires={"tiny": "<1"})
    publish_collection(registry, "side", more='[extras]\nx = ["tiny>5"]\n')
    manifest = Path("modpkg.toml")
    manifest.write_text(
        '[app]\nname = "a"\n[dependencies]\nside = ">=1"\n[constraints]\ntiny = "<1"\n'
    )
    before = manifest.read_bytes()

    def refusal(*added: str) -> str:
        with raises("M401") as caught:
            install(*added)
        assert manifest.read_bytes() == before
        return str(caught.value)

    text = refusal("old>=1")
    assert "  The command line needs old>=1." in text
    assert "the constraint tiny<1 (modpkg.toml:6)" in text
    assert "Hint: remove old on the command line." in text
    text = refusal("side[x]")
    assert "  The command line needs any version of side[x]." in text
    assert "leave out the extra 'x' of side on the command line" in text
    text = refusal("side>=7")
    assert "  The command line needs side>=7." in text
    assert "drop `>=7` from side on the command line" in text
    assert "modpkg.toml:4" not in text


def test_a_base_that_is_fitted_exactly_is_installed(registry: Path, tmp_path: Path) -> None:
    tiny.publish(tiny.write_base(tmp_path / "b", "1.1", seed=9), registry)
    assert versions(install("talker"))["tiny"] == "1.0", "which tiny-lora was made for"
    assert versions(install("tiny", upgrade=None))["tiny"] == "1.0"


def test_strict_and_fit_in_the_manifest(registry: Path, tmp_path: Path) -> None:
    tiny.publish(tiny.write_base(tmp_path / "b", "1.1", seed=9), registry)
    folder = tmp_path / "app"
    folder.mkdir()
    manifest = folder / "modpkg.toml"

    def locked(resolution: str, tiny: str = "*", **flags: bool) -> str:
        manifest.write_text(
            f'[app]\nname = "a"\n[dependencies]\ntiny = "{tiny}"\ntiny-lora = "*"\n'
            f"[resolution]\n{resolution}\n"
        )
        workspace = Workspace(find_project(folder))
        lock = update_lock(workspace, with_flags(workspace.manifest, **flags)).lock
        found = lock.find("tiny")
        assert found is not None
        assert stale_reason(workspace.manifest, lock) is None
        return found.version

    assert locked('fit = "any"') == "1.1"
    assert locked("") == "1.1", "what is locked stays"
    assert locked("", strict=True) == "1.0"
    with raises("M401", match="and strict is set"):
        locked("strict = true", ">1")
    assert locked("strict = false", ">1") == "1.1"
    assert locked("strict = true") == "1.0"


def test_drift_is_measured_where_the_earlier_weights_are_here(
    registry: Path, tmp_path: Path
) -> None:
    install("talker")
    folder = tiny.write_base(tmp_path / "b", "1.1")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = tensors[name] * 1.25
    save_file(tensors, weights)
    tiny.publish(folder, registry)
    generation = install("talker", "tiny>1", upgrade=["tiny"]).current()
    assert generation is not None
    fits = next(m.fits for m in generation.modules if m.name == "tiny-lora")
    assert fits == {
        "tiny 1.1": "drifted (1 of the 4 tensors it touches differ; they moved by 25.00% of their "
        f"norm in the median, at most by 25.00%, {name!r})"
    }


@pytest.mark.parametrize("shape", [{"layers": 1}, {"hidden": 12}])
def test_an_unfit_base_is_passed_over_without_fetching_weights(
    registry: Path, home: Path, tmp_path: Path, shape: dict[str, int]
) -> None:
    tiny.publish(tiny.write_base(tmp_path / "b", "2.0", **shape), registry)
    assert versions(install("talker"))["tiny"] == "1.0"
    with raises("M401", match=r"tiny 2\.0 does not fit: it"):
        install("tiny>=2")


def test_fewer_layers_than_the_adapter_is_never_silent(
    registry: Path, home: Path, tmp_path: Path
) -> None:
    """The field's commonest silent failure: an adapter for more layers than the base has."""
    tiny.publish(tiny.write_base(tmp_path / "b", "2.0", layers=1), registry)
    with pytest.raises(ModpkgError, match="layers.1"):
        tiny.publish(tiny.write_adapter(tmp_path / "l", "3.0", base=">=2"), registry)


def test_a_base_with_more_layers_than_the_adapter_is_reported(
    registry: Path, home: Path, tmp_path: Path
) -> None:
    install("talker")
    folder = tiny.write_base(tmp_path / "b", "1.1", layers=3)
    tiny.publish(folder, registry)
    with raises("M606", match=r"it changes 2 layers.* and tiny 1\.1 has 3"):
        install("talker", upgrade=["tiny"])


def test_a_tampered_pack_is_caught_before_anything_changes(registry: Path, home: Path) -> None:
    packs = sorted((registry / "blobs").rglob("*"), key=lambda p: p.is_file() and p.stat().st_size)
    packs[-1].chmod(0o644)
    data = bytearray(packs[-1].read_bytes())
    data[-5] ^= 1
    packs[-1].write_bytes(data)
    with raises("M305", match="tensor .* of tiny 1.0"):
        install("talker")
    assert Environment(find_project().environment).current() is None
    assert not find_project().lock_path.exists()


def test_truncated_files_in_the_store_are_fetched_again(registry: Path, home: Path) -> None:
    environment = install("talker")
    for folder in ("blobs", "packs"):
        for path in (home / "store" / folder).rglob("*"):
            if path.is_file():
                path.unlink()
                path.write_bytes(b"")
    before = {path.name: digest_file(path) for path in environment.packs.iterdir()}
    again = install("talker<2")
    assert versions(again)["talker"] == "1.0"
    assert digest_file(again.packs / next(iter(before))) in before.values()


def test_a_cleared_store_leaves_environments_running(registry: Path, home: Path) -> None:
    import shutil

    environment = install("talker")
    shutil.rmtree(home / "store")
    generation = environment.current()
    assert generation is not None
    assert environment.is_complete(generation)


def test_environments_share_the_bytes_of_a_base(registry: Path, tmp_path: Path) -> None:
    inodes = set()
    for number in range(10):
        folder = tmp_path / f"app-{number}"
        folder.mkdir()
        (folder / "modpkg.toml").write_text('[app]\nname = "x"\n[dependencies]\ntiny = "*"\n')
        environment = install(project=Project(folder / "modpkg.toml"))
        inodes |= {path.stat().st_ino for path in environment.packs.iterdir()}
    assert len(inodes) == 1
    known = Store(Path(os.environ["MODPKG_HOME"]) / "store").projects.known().values()
    assert {Path(project.lock).parent.name for project in known} == {f"app-{n}" for n in range(10)}


def test_a_cut_pack_is_repaired_by_the_next_install(registry: Path, home: Path) -> None:
    """The environment and the store share the file, so it has to be repaired in both."""
    environment = install("talker")
    for pack in list(environment.packs.iterdir()):
        os.truncate(pack, pack.stat().st_size - 1)
    assert versions(install()) == {"talker": "2.0", "tiny": "1.0", "tiny-lora": "2.0"}


def test_a_missing_pack_is_repaired_by_the_next_install(registry: Path) -> None:
    environment = install("talker")
    next(environment.packs.iterdir()).unlink()
    project = find_project()
    assert not environment.is_up_to_date(project.text(), project.lock_path.read_text())
    assert versions(install()) == {"talker": "2.0", "tiny": "1.0", "tiny-lora": "2.0"}


def test_another_registry_at_the_address_is_noticed(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    import shutil

    install("talker")
    shutil.rmtree(home / "store")
    tiny.publish_talker(tmp_path / "elsewhere", tmp_path / "projects2")
    monkeypatch.setenv("MODPKG_REGISTRY", str(tmp_path / "elsewhere"))
    next(Environment(find_project().environment).packs.iterdir()).unlink()
    with raises("M413", match="locked from the registry 'registry'"):
        install()
    monkeypatch.setenv("MODPKG_REGISTRY", str(registry))
    (registry / "registry.json").write_text('{"spec":1,"name":"hub"}')
    with raises("M413", match="its address .* now leads to the registry 'hub'; ask who keeps it"):
        install()


def test_a_name_is_fetched_only_from_its_own_registry(registry: Path, tmp_path: Path) -> None:
    publish_collection(tmp_path / "acme", "talker", "9.0")
    (tmp_path / "app").mkdir()
    manifest = tmp_path / "app" / "modpkg.toml"
    manifest.write_text(
        '[app]\nname = "x"\n[dependencies]\ntalker = { version = "*", registry = "acme" }\n'
        '[registries]\nacme = "../acme"\n'
    )
    environment = install(project=Project(manifest))
    assert versions(environment) == {"talker": "9.0"}
    lock = read_lock(Project(manifest).lock_path)
    assert lock is not None
    assert lock.module[0].registry == "acme"
    assert str(tmp_path) not in Project(manifest).lock_path.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_refused_before_the_first_byte(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real, small file system."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(small)], check=True)
    try:
        monkeypatch.setenv("MODPKG_REGISTRY", str(registry))
        monkeypatch.setenv("MODPKG_HOME", str(small))
        with raises("M502"):
            install("talker")
        project = find_project()
        assert Environment(project.environment).current() is None
        assert not project.lock_path.exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_an_install_with_nothing_to_do_removes_what_a_kill_left(home: Path) -> None:
    publish_collection(home / "registry", "lib")
    modpkg("install", "lib")
    environment = Environment(find_project().environment)
    for arguments in ([], ["lib"]):
        left = environment.root / "generations" / ".tmp-2-killed"
        left.mkdir()
        assert modpkg("install", *arguments).stdout.startswith("Nothing to do")
        assert not left.exists()


def test_an_adapters_tokenizer_is_laid_out_and_told(home: Path, tmp_path: Path) -> None:
    def tokenizer(*added: str, end: str) -> dict[str, bytes]:
        tokens = [{"id": 2 + n, "content": text} for n, text in enumerate(added)]
        document = {"added_tokens": tokens, "model": {"vocab": {"a": 0, "</s>": 1}}}
        files = {"tokenizer.json": document, "tokenizer_config.json": {"eos_token": end}}
        return {path: json.dumps(value).encode() for path, value in files.items()}

    base = tiny.write_base(tmp_path / "tiny")
    lora = tiny.write_adapter(tmp_path / "lora")
    for folder, files in (
        (base, tokenizer(end="</s>")),
        (lora, {**tokenizer("<end>", end="<end>"), "chat_template.jinja": b"{{ messages }}"}),
    ):
        for path, data in files.items():
            (folder / path).write_bytes(data)
        tiny.publish(folder, home / "registry")
    Path("modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\ntiny = "*"\ntiny-lora = "*"\n[models.m]\n'
        'base = "tiny"\nsteps = [{ op = "lora", module = "tiny-lora" }]\n'
    )
    told = modpkg("install").stderr
    assert "m has the tokenizer of tiny-lora, which differs from tiny's" in told
    folder = find_model("m", Workspace())[0]
    assert (folder / "chat_template.jinja").read_bytes() == b"{{ messages }}"
    assert json.loads((folder / "config.json").read_bytes())["eos_token_id"] == 2
    assert json.loads((folder / "generation_config.json").read_bytes())["eos_token_id"] == [2]


@pytest.mark.parametrize("owner", ["tiny", "tiny-lora"])
def test_a_tokenizer_in_one_module_alone_is_read(owner: str, home: Path, tmp_path: Path) -> None:
    """A tokenizer of bytes has settings only; planning a composition reads them."""
    folders = {
        "tiny": tiny.write_base(tmp_path / "tiny"),
        "tiny-lora": tiny.write_adapter(tmp_path / "lora"),
    }
    (folders[owner] / "tokenizer_config.json").write_bytes(b'{"eos_token": "</s>"}')
    for folder in folders.values():
        tiny.publish(folder, home / "registry")
    modpkg("install", "tiny")
    Path("modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\ntiny = "*"\ntiny-lora = "*"\n[models.m]\n'
        'base = "tiny"\nsteps = [{ op = "lora", module = "tiny-lora" }]\n'
    )
    told = modpkg("install").stderr
    assert ("tiny-lora has other tokens than tiny (eos_token)" in told) == (owner == "tiny-lora")


def test_what_is_passed_over_for_an_exact_fit_is_told(registry: Path, tmp_path: Path) -> None:
    install("talker")
    tiny.publish(tiny.write_base(tmp_path / "b", "1.1", seed=9), registry)
    told = "tiny 1.1 has other weights than tiny-lora 2.0 was made for."
    assert told in modpkg("why-not", "tiny==1.1").stdout
    assert "it has other weights than tiny-lora 2.0 was made for" in modpkg("outdated").stdout
