"""Artifacts that others made: what is taken of them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from modpkg.core import bounds
from modpkg.core.oci_address import parse_oci_address
from modpkg.interop.oci_artifact import (
    ModelDescriptor,
    OciLayer,
    model_config,
    model_manifest,
    read_artifact,
)
from modpkg.interop.oci_pull import import_oci, pulled
from modpkg.manifest.read import read_manifest
from modpkg.registry import request_tries
from tests.raising import raises
from tests.registry.oci_server import (
    FakeRegistry,
    as_bytes,
    digest_of,
    fake_registry,
    layer_of,
    manifest_of,
)
from tests.tiny import CONFIG, base_weights

ADDRESS = parse_oci_address("oci://models.example/team/model:1")
TYPE = "application/vnd.oci.image.manifest.v1+json"


def read(manifest: Any) -> Any:
    data = manifest if isinstance(manifest, bytes) else as_bytes(manifest)
    return read_artifact(data, TYPE, ADDRESS)


@pytest.mark.parametrize(
    "path",
    [
        "../config.json",
        "/etc/passwd",
        "a/../../b.json",
        "a\\b.json",
        "C:/x.json",
        "a//b.json",
        "./a.json",
        ".bashrc",
        "a/.git/config.json",
        "con.json",
        "a\nb.json",
        "a\u202eb.json",
        "x" * 600 + ".json",
        "",
    ],
)
def test_a_path_that_leads_out(path: str) -> None:
    with raises("M801"):
        read(manifest_of([layer_of(path, b"x")]))


def test_a_layer_without_a_path() -> None:
    with raises("M801", match="has no path"):
        read(manifest_of([layer_of(None, b"x")]))


def test_paths_that_are_one_file_elsewhere() -> None:
    for one, other in (("a.json", "a.json"), ("A.json", "a.json"), ("a.json", "a.json/b.json")):
        with raises("M801"):
            read(manifest_of([layer_of(one, b"x"), layer_of(other, b"y")]))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("weight.v1.tar", "packed"), ("doc.v1.tar+gzip", "packed"), ("secret.v1.raw", "packed")],
)
def test_a_layer_that_is_no_file(kind: str, reason: str) -> None:
    with raises("M801", match=reason):
        read(manifest_of([layer_of("a.json", b"x", kind)]))
    with raises("M801", match="unknown here"):
        read(manifest_of([layer_of("a.json", b"x") | {"mediaType": "text/plain"}]))


def test_code_is_left_out() -> None:
    found = read(manifest_of([layer_of("run.py", b"x", "code.v1.tar"), layer_of("a.json", b"y")]))
    assert [layer.path for layer in found.layers] == ["a.json"]
    assert found.left == ("run.py",)


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"{",
        b'{"a": ' * 5000,
        b'{"mediaType": 7}',
        as_bytes(manifest_of([]) | {"layers": {}}),
        as_bytes(manifest_of([], config=None)),
        as_bytes(manifest_of([layer_of("a", b"x") | {"size": -1}])),
        as_bytes(manifest_of([layer_of("a", b"x") | {"size": 2**63}])),
        as_bytes(manifest_of([layer_of("a", b"x") | {"digest": "sha256:../../x"}])),
        as_bytes(manifest_of([layer_of("a", b"x") | {"digest": "sha512:" + "0" * 128}])),
        as_bytes(manifest_of([layer_of("a", b"x") | {"annotations": {"a": 1}}])),
    ],
)
def test_a_malformed_manifest(manifest: bytes) -> None:
    with raises("M801", match="malformed"):
        read(manifest)


def test_what_is_no_model() -> None:
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
    with raises("M801", match="index of several"):
        read(index | {"manifests": []})
    image = manifest_of([], artifactType="application/x")
    image["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json"
    with raises("M801", match="no model of the CNCF"):
        read(image)


def test_too_many_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "OCI_LAYERS", 2)
    with raises("M801", match="over 2 layers"):
        read(manifest_of([layer_of(f"{number}.json", b"x") for number in range(3)]))


_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["descriptor", "config", "modelfs"],
    "properties": {
        "descriptor": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "family": {"type": "string"},
                "name": {"type": "string", "minLength": 1},
                "version": {"type": "string"},
                "licenses": {"type": "array", "items": {"type": "string"}},
            },
        },
        "config": {
            "type": "object",
            "additionalProperties": False,
            "properties": {key: {"type": "string"} for key in ("format", "paramSize", "precision")},
        },
        "modelfs": {
            "type": "object",
            "additionalProperties": False,
            "required": ["type", "diffIds"],
            "properties": {
                "type": {"enum": ["layers"]},
                "diffIds": {"type": "array", "minItems": 1, "items": {"type": "string"}},
            },
        },
    },
}
"""What model-spec's schema/config-schema.json says of the properties that are written."""


def test_what_is_written() -> None:
    layers = [
        OciLayer(path, digest_of(path.encode()), 5)
        for path in ("README.md", "config.json", "merges.txt", "model.safetensors", "LICENSE")
    ]
    descriptor = ModelDescriptor(name="chat", version="1.0", licenses=["MIT", "Apache-2.0"])
    config = model_config(
        descriptor, layers, family="llama", dtypes={"BF16"}, parameters=134_515_008
    )
    jsonschema.validate(json.loads(config), _SCHEMA)
    assert json.loads(config)["config"]["precision"] == "bf16"
    manifest = model_manifest(config, layers, descriptor)
    assert manifest == model_manifest(config, layers, descriptor)
    said = json.loads(manifest)
    kinds = [
        layer["mediaType"].removeprefix("application/vnd.cncf.model.") for layer in said["layers"]
    ]
    assert kinds == [
        *("doc.v1.raw", "weight.config.v1.raw", "weight.config.v1.raw"),
        *("weight.v1.raw", "doc.v1.raw"),
    ]
    again = read(manifest)
    assert list(again.layers) == layers


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeRegistry]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with fake_registry() as server:
        server.serve(b"{}")
        yield server


def serve(fake: FakeRegistry, files: dict[str, bytes], **more: Any) -> None:
    layers = []
    for path, data in files.items():
        fake.serve(data)
        layers.append(layer_of(path, data))
    fake.serve(as_bytes(manifest_of(layers, **more)), kind="manifests")


def files_of(**more: bytes) -> dict[str, bytes]:
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": base_weights(),
        "README.md": b"# A model\n",
        **{name.replace("__", "/").replace("_DOT_", "."): data for name, data in more.items()},
    }


def pull(fake: FakeRegistry) -> list[str]:
    with pulled(parse_oci_address(fake.address)) as got:
        return import_oci(got, Path("out"), "model", "1.0.0", license="MIT")


def test_a_model_that_another_tool_pushed(fake: FakeRegistry) -> None:
    serve(fake, files_of(run_DOT_py=b"x", pytorch_model_DOT_bin=b"x"))
    warnings = pull(fake)
    assert any("pytorch_model.bin" in text and "run.py" in text for text in warnings)
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "modpkg.toml",
    ]
    manifest = read_manifest(Path("out/modpkg.toml"))
    assert (manifest.imported_from or "").startswith(f"oci://127.0.0.1:{fake.port}/team/model@sha")


def test_a_file_with_other_bytes(fake: FakeRegistry, home: Path) -> None:
    serve(fake, files_of())
    weights = base_weights()
    path = f"/v2/team/model/blobs/{digest_of(weights)}"
    fake.on("GET", path, (200, {}, weights[:-1] + b"x"))
    with raises("M893", match=r"model\.safetensors"):
        pull(fake)
    assert not Path("out").exists()
    assert not [path for path in (home / "downloads").rglob("*.part") if path.stat().st_size]
    fake.on("GET", path, (200, {}, weights))
    pull(fake)


def test_an_interrupted_pull_goes_on(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_tries, "RETRIES", 0)
    monkeypatch.setattr(bounds, "PROGRESS_BYTES", 1 << 30)
    serve(fake, files_of())
    weights = base_weights()
    path = f"/v2/team/model/blobs/{digest_of(weights)}"
    fake.on("GET", path, (200, {"Content-Length": str(len(weights))}, weights[:5000]))
    with raises("M892", match="less of a file|broke off"):
        pull(fake)
    whole = {"Content-Range": f"bytes 5000-{len(weights) - 1}/{len(weights)}"}
    fake.on("GET", path, (206, whole, weights[5000:]))
    pull(fake)
    ranges = [one.headers["Range"] for one in fake.asked if one.path == path]
    assert ranges == [None, "bytes=5000-"]
    assert (Path("out") / "model.safetensors").read_bytes() == weights


def test_a_pull_that_other_bytes_began_starts_again(
    fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_tries, "RETRIES", 0)
    monkeypatch.setattr(bounds, "PROGRESS_BYTES", 1 << 30)
    serve(fake, files_of())
    weights = base_weights()
    path = f"/v2/team/model/blobs/{digest_of(weights)}"
    fake.on("GET", path, (200, {"Content-Length": str(len(weights))}, b"x" * 5000))
    with raises("M892"):
        pull(fake)
    part = {"Content-Range": f"bytes 5000-{len(weights) - 1}/{len(weights)}"}
    fake.on("GET", path, (206, part, weights[5000:]), (200, {}, weights))
    pull(fake)
    assert (Path("out") / "model.safetensors").read_bytes() == weights


def test_no_room(fake: FakeRegistry) -> None:
    layers = [layer_of("model.safetensors", b"x") | {"size": 2**60}]
    fake.serve(as_bytes(manifest_of(layers)), kind="manifests")
    with raises("M502"):
        pull(fake)


@pytest.mark.parametrize(
    "task", ['{"kind": "x"}', '{"kind": "text-generation", "run": "sh"}', '{"kind": 7}']
)
def test_a_task_that_is_none(task: str, fake: FakeRegistry) -> None:
    serve(fake, files_of(), annotations={"modpkg.task": task})
    with raises("M801", match="127.0.0.1.*the task"):
        pull(fake)
    assert not Path("out").exists()


def test_a_task_comes_along(fake: FakeRegistry) -> None:
    for malformed in ("[]", "{", "{" * 60_000):
        serve(fake, files_of(), annotations={"modpkg.task": malformed})
        with raises("M801", match="malformed"):
            pull(fake)
    task = '{"kind":"text-generation","prompt":"A \\"text\\"\\n{{ text }}"}'
    serve(fake, files_of(), annotations={"modpkg.task": task})
    pull(fake)
    found = read_manifest(Path("out/modpkg.toml")).task
    assert found is not None
    assert found.prompt == 'A "text"\n{{ text }}'


def test_a_malformed_project(fake: FakeRegistry) -> None:
    serve(fake, files_of(assembly__modpkg_DOT_lock=b"spec = ["))
    with raises("M801", match=r"127.0.0.1.*assembly/modpkg\.lock"):
        pull(fake)
    serve(fake, files_of(assembly__modpkg_DOT_toml=b"[module]\nname = 7"))
    with raises("M801", match=r"127.0.0.1.*assembly/modpkg\.toml"):
        pull(fake)


def test_a_config_that_says_nothing_true(fake: FakeRegistry) -> None:
    for config in (b"\xff", b"[" * 100_000, b'{"descriptor": {"licenses": ["nonsense!"]}}'):
        fake.serve(config)
        said = {
            "mediaType": "application/vnd.cncf.model.config.v1+json",
            "digest": digest_of(config),
            "size": len(config),
        }
        serve(fake, files_of(), config=said)
        with pulled(parse_oci_address(fake.address)) as got:
            import_oci(got, Path(f"out-{len(config)}"), "model", "1.0.0")
