"""A locked assembly in a real OCI registry: pushed, pulled by another tool, imported, compared."""

from __future__ import annotations

import base64
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import modpkg
from modpkg.cli.build import build_command
from modpkg.cli.export import export_command
from modpkg.cli.import_ import import_command
from modpkg.cli.publish import publish_command
from modpkg.core.filenames import LOCK_NAME
from modpkg.core.names import module_name, parse_requirement
from modpkg.core.oci_address import parse_oci_address
from modpkg.core.packs import read_pack_header
from modpkg.environment.install import install
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import Project, find_project
from modpkg.environment.workspace import RegistryOptions, Workspace
from modpkg.interop.hf import export_hf
from modpkg.interop.oci import export_oci
from modpkg.manifest.read import read_manifest
from modpkg.registry import connection
from modpkg.registry.oci_client import OciClient
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import read_lock
from tests.raising import raises
from tests.registry.places.oci import SECRET, USER, DockerRegistry, docker_registry, skopeo_pull
from tests.registry.servers import make_certificate
from tests.runtime.helpers import publish_two_adapters

IDS = torch.tensor([[3, 4, 5]])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("oci") / "open") as running:
        yield running


@pytest.fixture
def installed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The user's environment with a base and an adapter on it."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    publish_two_adapters(home / "registry", tmp_path / "p")
    workspace = Workspace(find_project())
    names = ("tiny", "lora-1")
    install(workspace, InstallRequest(add=[parse_requirement(name) for name in names]))
    return workspace


def run(command: Any, *arguments: str) -> Any:
    done = CliRunner().invoke(command, [*arguments, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def export(name: str, address: str) -> Any:
    return run(export_command, name, address)


def logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    found: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    return found


def test_the_same_model_comes_back(
    registry: DockerRegistry, installed: Workspace, tmp_path: Path, home: Path
) -> None:
    wanted = modpkg.load("lora-1")(IDS).logits
    address = registry.repository("team/chat")
    pushed = export("lora-1", f"{address}:1.0")
    assert pushed["uploaded"] > 0
    digest = pushed["address"].partition("@")[2]
    assert pushed["address"] == f"{address}@{digest}"

    other = skopeo_pull(registry, "team/chat:1.0", tmp_path / "cluster")
    assert torch.equal(logits(other), wanted)

    sent = registry.writes()
    again = export("lora-1", f"{address}:1.0")
    assert (again["address"], again["uploaded"]) == (pushed["address"], 0)
    assert registry.writes() == sent
    renamed = export("lora-1", f"{address}:stable")
    assert renamed["address"] == pushed["address"]
    assert registry.writes() == sent + 1  # the tag

    found = run(import_command, "oci", f"{address}@{digest}", "--out", "back")
    assert found["name"] == "chat"
    assert torch.equal(logits(Path("back")), wanted)
    manifest = read_manifest(Path("back/modpkg.toml"))
    assert manifest.module is not None
    assert (manifest.module.license, manifest.imported_from) == ("MIT", f"{address}@{digest}")
    assert manifest.files.exclude == ("assembly/modpkg.lock", "assembly/modpkg.toml")
    exported = Path("hf")
    CliRunner().invoke(export_command, ["lora-1", str(exported)])
    for path in sorted(exported.rglob("*")):
        assert (Path("back") / path.relative_to(exported)).read_bytes() == path.read_bytes()
    assert not list((home / "downloads").glob("*"))
    assert [path.name for path in (home / "exports").iterdir()] == ["pushed.json"]


def test_the_assembly_installs_the_same_again(
    registry: DockerRegistry, installed: Workspace, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = registry.repository("team/again:1")
    pushed = export("lora-1", address)
    run(import_command, "oci", address)
    folder = Path("again/assembly").absolute()
    lock = read_lock(folder / LOCK_NAME)
    assert lock is not None
    assert [module.name for module in lock.module] == ["lora-1", "tiny"]
    before = (folder / LOCK_NAME).read_bytes()
    options = RegistryOptions(registry=str(home / "registry"))
    workspace = Workspace(Project(folder / "modpkg.toml"), options=options)
    shutil.rmtree(home / "store")
    install(workspace, InstallRequest(frozen=True))
    assert (folder / LOCK_NAME).read_bytes() == before
    model = workspace.environment.model("lora-1")
    assert model.result == lock.composed[0].result == installed.environment.model("lora-1").result
    monkeypatch.setenv("MODPKG_PROJECT", str(folder))
    again = export("lora-1", address)
    assert (again["address"], again["uploaded"]) == (pushed["address"], 0)


def test_what_came_back_is_a_module(
    registry: DockerRegistry, installed: Workspace, home: Path
) -> None:
    wanted = modpkg.load("lora-1")(IDS).logits
    address = registry.repository("team/module:1")
    export("lora-1", address)
    run(import_command, "oci", address)
    run(build_command, "module")
    run(publish_command, "module", "--registry", str(home / "registry"))
    install(Workspace(find_project()), InstallRequest(add=[parse_requirement("module")]))
    assert torch.equal(modpkg.load("module")(IDS).logits, wanted)
    published = Registry(str(home / "registry"))
    record = published.record(published.line("module", "1.0.0"))
    assert not [path for path in record.files if path.startswith("assembly")]
    assert record.manifest["provenance"]["imported-from"].startswith("oci://127.0.0.1:")


def test_an_app_s_own_model(registry: DockerRegistry, installed: Workspace, home: Path) -> None:
    folder = Path("app").absolute()
    folder.mkdir()
    (folder / "modpkg.toml").write_text(
        '[app]\nname = "news"\n[dependencies]\ntiny = "*"\nlora-1 = "*"\nlora-2 = "*"\n'
        '[registries]\nlocal = "/nobody/elses"\n'
        '[models.both]\nbase = "tiny"\nsteps = [{ op = "lora", module = "lora-1", scale = 0.5 }]\n'
        '[models.both.task]\nkind = "text-generation"\nprompt = "{{ text }}!"\n'
    )
    workspace = Workspace(Project(folder / "modpkg.toml"))
    install(workspace, InstallRequest())
    address = registry.repository("team/both:1")
    export_oci(workspace, "both", parse_oci_address(address))
    run(import_command, "oci", address)
    manifest = read_manifest(Path("both/assembly/modpkg.toml"))
    assert [str(one.requirement) for one in manifest.dependencies] == ["tiny==1.0", "lora-1==1.0"]
    assert manifest.registries == {}
    assert manifest.models == workspace.manifest.models
    assert manifest.tasks == workspace.manifest.tasks
    module = read_manifest(Path("both/modpkg.toml"))
    assert module.task == workspace.manifest.tasks[module_name("both")]
    own = Workspace(Project(Path("both/assembly/modpkg.toml").absolute()))
    install(own, InstallRequest(frozen=True))
    assert own.environment.model("both").result == workspace.environment.model("both").result


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_with_a_login(auth: str, installed: Workspace, tmp_path: Path) -> None:
    with docker_registry(tmp_path / auth, auth) as registry:
        address = registry.repository("team/chat:1.0")
        with raises("M892", match="docker login"):
            export("tiny", address)
        with raises("M892", match="docker login"):
            run(import_command, "oci", address)
        write_login(tmp_path, registry, SECRET)
        pushed = export("tiny", address)
        assert export("tiny", address)["uploaded"] == 0
        sent = registry.count("PATCH")
        assert 0 < export("tiny", registry.repository("prod/chat:1.0"))["uploaded"] < 5000
        assert registry.count("PATCH") == sent  # only the manifest: the blobs were mounted
        found = run(import_command, "oci", pushed["address"])
        assert torch.equal(logits(Path(found["folder"])), modpkg.load("tiny")(IDS).logits)
        write_login(tmp_path, registry, "another")
        with raises("M892", match="docker login"):
            export("tiny", address)


def test_over_tls(installed: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that is not this machine by its name is spoken to over TLS alone."""
    host, lookup = "registry.example", socket.getaddrinfo

    def found(name: str, *arguments: Any, **options: Any) -> Any:
        return lookup("127.0.0.1" if name == host else name, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    certificate = make_certificate(tmp_path / "registry.pem", host)
    with docker_registry(tmp_path / "tls", "basic", certificate) as registry:
        write_login(tmp_path, registry, SECRET, host)
        address = f"oci://{host}:{registry.port}/team/chat:1.0"
        with raises("M892", match="certificate is not trusted"):
            export("tiny", address)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        connection._tls.cache_clear()
        pushed = export("tiny", address)
        run(import_command, "oci", pushed["address"])
    connection._tls.cache_clear()
    assert torch.equal(logits(Path("chat")), modpkg.load("tiny")(IDS).logits)


def test_plain_http_where_it_is_asked_for(
    registry: DockerRegistry, installed: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *a, **k: lookup("127.0.0.1", *a, **k))
    where = f"registry.cluster.example:{registry.port}/team/plain:1"
    with raises("M892", match=r"does not speak TLS.*oci\+http://"):
        export("tiny", f"oci://{where}")
    pushed = export("tiny", f"oci+http://{where}")
    run(import_command, "oci", pushed["address"])
    assert read_manifest(Path("plain/modpkg.toml")).imported_from == pushed["address"]


def write_login(
    tmp_path: Path, registry: DockerRegistry, secret: str, host: str = "127.0.0.1"
) -> None:
    pair = base64.b64encode(f"{USER}:{secret}".encode()).decode()
    (tmp_path / "docker").mkdir(exist_ok=True)
    config = {"auths": {f"{host}:{registry.port}": {"auth": pair}}}
    (tmp_path / "docker/config.json").write_text(json.dumps(config))


def test_other_weights_than_the_lock_has(registry: DockerRegistry, installed: Workspace) -> None:
    """Whoever may push can push anything: what the lock has of the result decides."""
    address = parse_oci_address(registry.repository("team/changed:1"))
    export("lora-1", str(address))
    export("tiny", registry.repository("team/changed:other"))
    client = OciClient(address, writes=True)
    manifest = json.loads(client.manifest()[0])
    other = json.loads(
        OciClient(parse_oci_address(registry.repository("team/changed:other"))).manifest()[0]
    )

    def weights(layers: list[Any]) -> Any:
        return next(layer for layer in layers if "safetensors" in json.dumps(layer))

    weights(manifest["layers"]).update(weights(other["layers"]))
    client.push_manifest(json.dumps(manifest).encode())
    with raises("M893", match="the weights .*lora-1"):
        run(import_command, "oci", str(address))
    assert not Path("changed").exists()


def test_nothing_is_there(registry: DockerRegistry, installed: Workspace) -> None:
    with raises("M862"):
        run(import_command, "oci", registry.repository("team/nobody:1"))
    with raises("M805", match="a digest is the content's own"):
        export("tiny", registry.repository("team/x") + "@sha256:" + "0" * 64)
    with raises("M901", match="--to oci pushes"):
        run(export_command, "tiny", "folder", "--to", "oci")
    with raises("M901", match="writes a folder"):
        run(export_command, "tiny", registry.repository("team/x"), "--to", "peft")
    with raises("M892", match="--offline"):
        run(export_command, "tiny", registry.repository("team/x"), "--offline")
    with raises("M892", match="--offline"):
        run(import_command, "oci", registry.repository("team/x"), "--offline")
    with raises("M891"):
        run(import_command, "oci", "oci://team")


def test_weights_in_several_files(
    registry: DockerRegistry, installed: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modpkg.interop.weights.SMALL", 0)
    monkeypatch.setitem(export_hf.__kwdefaults__, "max_shard_bytes", 4000)
    address = registry.repository("team/sharded:1")
    files = [name for name in export("lora-1", address)["files"] if name.endswith(".safetensors")]
    assert len(files) > 1
    run(import_command, "oci", address)  # which compares the weights with the lock
    headers = [read_pack_header(path) for path in Path("sharded").glob("*.safetensors")]
    assert len(headers) == len(files)
    names = {name for header in headers for name in header}
    assert names == installed.environment.model("lora-1").tensors.keys()
