"""The checker: it passes the vectors, and finds every fault that is planted in them."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from modpkg.core.digests import parse_digest
from modpkg.core.elsewhere import elsewhere_path, places_document
from modpkg.core.records import canonical_json
from modpkg.core.tree import BlobTree
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from registry_spec import VECTORS
from registry_spec.__main__ import main
from registry_spec.check import check
from tests.hub_server import hub_server
from tests.registry.servers import LoopbackHttpServer


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A copy of the vectors' registry that can be damaged."""
    return Path(shutil.copytree(VECTORS / "registry", tmp_path / "registry"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["check", *arguments])


def blob(registry: Path, digest: str | None) -> Path:
    assert digest is not None
    path = BlobTree(registry).path(parse_digest(digest))
    path.chmod(0o644)
    return path


def flip(path: Path, at: bytes | int) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(at) if isinstance(at, bytes) else at] ^= 1
    path.write_bytes(data)


def kinds_of_file(registry: Path) -> dict[str, Path]:
    reader = Registry(str(registry))
    base, lora = reader.line("tiny-base", "1.0.0"), reader.line("tiny-lora", "1.0.0")
    record = reader.record(base)
    cases = reader.record(reader.line("tiny-model", "1.0.0")).files["tests/cases.jsonl"]
    return {
        "registry": registry / "registry.json",
        "index": registry / "index" / "tiny-base.jsonl",
        "record": blob(registry, base.release),
        "pack": blob(registry, next(iter(record.packs))),
        "file": blob(registry, record.files["config.json"].digest),
        "tests": blob(registry, cases.digest),
        "provides": blob(registry, base.provides),
        "expects": blob(registry, lora.expects["tiny-base"]),
    }


def edit_line(registry: Path, module: str, /, **fields: object) -> None:
    path = registry / "index" / f"{module}.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(canonical_json(json.loads(first) | fields).decode() + "\n" + "".join(rest))


def edit_record(
    registry: Path, name: str, version: str, change: Callable[[dict[str, Any]], object]
) -> None:
    """Change a release record, and let everything that names it name the new one."""
    reader = Registry(str(registry))
    line = reader.line(name, version)
    record = json.loads(reader.blob(parse_digest(line.release), "it"))
    change(record)
    digest = BlobTree(registry).add(canonical_json(record))
    path = registry / "index" / f"{name}.jsonl"
    path.write_text(path.read_text().replace(line.release, digest))


def test_the_vectors_pass_the_check() -> None:
    report = check(str(VECTORS / "registry"))
    assert report.problems == []
    assert (report.modules, report.releases) == (6, 10)
    done = run(str(VECTORS / "registry"))
    assert done.exit_code == 0
    assert "is sound (6 modules, 10 releases" in done.output


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize(
    "kind", ["registry", "index", "record", "pack", "file", "tests", "provides", "expects"]
)
def test_a_flipped_byte_is_found(registry: Path, kind: str, place: str) -> None:
    path = kinds_of_file(registry)[kind]
    data = path.read_bytes()
    at: bytes | int = {"first": 0, "middle": len(data) // 2, "last": len(data) - 1}[place]
    if place == "middle" and kind in ("registry", "index"):
        # Not every byte there is vouched for by something else: a registry's name, a time.
        at = b'"spec"' if kind == "registry" else b'"release":"sha256:'
    elif place == "last" and kind in ("registry", "index"):
        at = data.rindex(b"}")
    flip(path, at)
    report = check(str(registry))
    assert report.problems
    done = run(str(registry))
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == len(report.problems)


@pytest.mark.parametrize(
    "kind", ["registry", "index", "record", "pack", "file", "tests", "provides", "expects"]
)
def test_a_missing_file_is_found(registry: Path, kind: str) -> None:
    kinds_of_file(registry)[kind].unlink()
    if kind == "index":
        # Nothing else says that the module was there, but the adapter's base is gone.
        (registry / "index" / "tiny-base.jsonl").write_text("")
    assert check(str(registry)).problems


@pytest.mark.parametrize(
    ("fields", "code", "sentence"),
    [
        ({"kind": "model"}, "M310", "kind"),
        ({"requires": ["other"]}, "M310", "requires"),
        ({"requires": ["b 1"]}, "M209", "b 1"),
        ({"provides": None}, "M310", "provides"),
        ({"expects": {"b": "sha256:" + "0" * 64}}, "M209", "does not require"),
        ({"name": "Tiny_Base"}, "M209", "its name is"),
        ({"published": "yesterday"}, "M209", "yesterday"),
        ({"spec": 2}, "M209", "spec version 2"),
        ({"version": "1.1"}, "M209", "both of version 1.1"),
        ({"release": "sha256:" + "0" * 64}, "M306", "is missing"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_index_line_is_found(
    registry: Path, fields: dict[str, object], code: str, sentence: str
) -> None:
    edit_line(registry, "tiny-base", **fields)
    problems = check(str(registry)).problems
    assert any(code == problem.code and sentence in problem.message for problem in problems), (
        problems
    )


def set_deep(record: dict[str, object], path: tuple[str, ...], value: object) -> None:
    inner = record
    for key in path[:-1]:
        inner = inner[key]  # type: ignore[assignment]
    inner[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("license",), "GPL-3.0-only", "its manifest's"),
        (("manifest",), {"app": {"name": "x"}}, "app's"),
        (("manifest", "module", "name"), "Tiny_Base", "normal form"),
        (("manifest", "what"), 1, "not a key"),
        (("files", "config.json", "size"), 1, "bytes, not 1"),
        (("tensors", "norm.weight", "shape"), [2, 2], "not at the place"),
        (("tensors", "norm.weight", "digest"), "sha256:" + "0" * 64, "has the digest"),
        (("tensors", "norm.weight", "offset"), 0, "not at the place"),
        (("tensors",), {}, "no tensor is in pack"),
        (("spec",), 2, "spec version 2"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_record_is_found(
    registry: Path, path: tuple[str, ...], value: object, sentence: str
) -> None:
    edit_record(registry, "tiny-base", "1.0.0", lambda record: set_deep(record, path, value))
    problems = check(str(registry)).problems
    assert any(sentence in problem.message for problem in problems), problems


def test_an_interface_that_leaves_out_a_tensor_is_found(registry: Path) -> None:
    def name_twice(record: dict[str, Any]) -> None:
        record["tensors"]["other.weight"] = record["tensors"]["norm.weight"]

    edit_record(registry, "tiny-base", "1.0.0", name_twice)
    problems = check(str(registry)).problems
    assert any("not that of its tensor table" in problem.message for problem in problems)


def test_an_adapter_that_was_made_for_other_weights_is_found(registry: Path) -> None:
    other = Registry(str(registry)).line("tiny-base", "2.0.0rc1")
    edit_record(
        registry,
        "tiny-lora",
        "1.0.0",
        lambda record: set_deep(
            record,
            ("provenance", "built_from"),
            [{"name": "tiny-base", "version": "1.1.0", "release": other.release}],
        ),
    )
    RegistryWriter(registry).describe_all()
    assert check(str(registry)).problems == []  # the tensor it touches is the same there
    reader = Registry(str(registry))
    line = reader.line("tiny-lora", "1.0.0")
    expects = json.loads(reader.blob(parse_digest(line.expects["tiny-base"]), "it"))
    expects["tensors"]["layers.0.weight"]["digest"] = "sha256:" + "0" * 64
    digest = BlobTree(registry).add(canonical_json(expects))
    edit_record(
        registry,
        "tiny-lora",
        "1.0.0",
        lambda record: set_deep(record, ("expects", "tiny-base"), digest),
    )
    edit_line(registry, "tiny-lora", expects={"tiny-base": digest})
    RegistryWriter(registry).describe_all()
    (problem,) = check(str(registry)).problems
    assert "was not made for tiny-base" in problem.message


def test_a_record_that_is_not_canonical_is_found(registry: Path) -> None:
    path = registry / "registry.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
    (problem,) = check(str(registry)).problems
    assert "canonical" in problem.message


def test_stray_blobs_have_to_hash_to_their_names(registry: Path) -> None:
    BlobTree(registry).add(b"left by a publisher that was killed")
    assert check(str(registry)).problems == []
    stray = registry / "blobs" / "sha256" / "00" / ("0" * 64)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"")
    misplaced = stray.parent / ("f" * 64)
    misplaced.write_bytes(b"")
    (registry / "index" / "Not_Normal.jsonl").write_text("")
    codes = [problem.code for problem in check(str(registry)).problems]
    assert sorted(codes) == ["M209", "M209", "M305"]


def test_the_lines_for_searches_are_well_formed(registry: Path) -> None:
    path = registry / "modules.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for wrong in ([*lines, b"{\n"], lines[::-1], [line.replace(b":", b": ") for line in lines]):
        path.write_bytes(b"".join(wrong))
        [problem] = check(str(registry)).problems
        assert (problem.where, problem.code) == ("modules.jsonl", "M209")
    path.write_bytes(re.sub(rb'"index":"sha256:.{4}', b'"index":"sha256:0000', lines[0]))
    assert [problem.code for problem in check(str(registry)).problems] == ["M209"]
    path.write_bytes(lines[0])
    assert check(str(registry)).problems == [], "it may be behind"
    path.unlink()
    assert check(str(registry)).problems == [], "and it may be missing"


def test_the_report_as_json(registry: Path) -> None:
    done = run(str(registry), "--json")
    assert json.loads(done.stdout)["problems"] == []
    flip(kinds_of_file(registry)["pack"], -1)
    done = run(str(registry), "--json")
    assert done.exit_code == 1
    assert {problem["code"] for problem in json.loads(done.stdout)["problems"]} == {"M305"}


def test_no_registry_is_a_problem(tmp_path: Path) -> None:
    done = run(str(tmp_path))
    assert done.exit_code == 1
    assert "[M301]" in done.output


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(registry: Path) -> Iterator[str]:
    handler = functools.partial(Handler, directory=str(registry))
    with LoopbackHttpServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_over_http_names_are_given_and_followed(served: str, registry: Path) -> None:
    done = run(served)
    assert done.exit_code == 2
    assert "cannot list its modules" in done.output
    report = check(served, ["Tiny_Model"])
    assert report.problems == []
    assert (report.modules, report.releases) == (4, 6)
    flip(kinds_of_file(registry)["pack"], -1)
    assert {problem.code for problem in check(served, ["tiny-base"]).problems} == {"M305"}


def test_a_blob_that_is_elsewhere(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read and verified as it would be if it were here."""
    files = kinds_of_file(registry)
    digest = parse_digest(f"sha256:{files['pack'].name}")
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        commit = hub.repository("team/base", {"weights": files["pack"].read_bytes()}).head.sha
        path = registry / elsewhere_path(digest)
        path.parent.mkdir(parents=True)
        path.write_bytes(places_document([f"hf://team/base@{commit}/weights"]))
        files["pack"].unlink()
        assert check(str(registry)).problems == []
