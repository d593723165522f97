"""Imports from a hub: what is taken, how it is verified, and what a hub cannot do."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from modpkg.cli.import_ import import_command
from modpkg.core import bounds
from modpkg.manifest.read import read_manifest
from tests.hub_server import TOKEN, Handler, Hub, hub_server, info_of
from tests.tiny import ADAPTER_CONFIG, CONFIG, adapter_weights, base_weights

README = b"""---
license: llama3.2
base_model: org/parent
base_model_relation: finetune
datasets: [org/texts, "org/more: texts"]
language: en
tags:
- chat
- base_model:finetune:org/parent
---
# A card
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with hub_server() as state:
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        yield state


def base_files(**more: bytes) -> dict[str, bytes]:
    return {
        ".gitattributes": b"*.safetensors filter=lfs",
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": base_weights(),
        "README.md": README,
        **{name.replace("__", "/"): data for name, data in more.items()},
    }


def run(*arguments: str) -> Result:
    return CliRunner().invoke(import_command, arguments)


def imported(*arguments: str) -> Result:
    done = run("hf", *arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def failed(*arguments: str, code: str) -> str:
    done = run(*arguments)
    assert getattr(done.exception, "code", None) == code, (done.output, done.exception)
    return str(done.exception)


def test_a_base(hub: Hub, tmp_path: Path) -> None:
    pickles = {"pytorch_model.bin": b"x" * 20_000, "original/consolidated.pth": b"x"}
    more = {"run.py": b"x", "extra.safetensors": base_weights(), "onnx/model.onnx": b"x"}
    equal = {"notes/one.txt": b"equal", "notes/two.txt": b"equal"}
    repository = hub.repository("org/Tiny.Base", base_files() | pickles | more | equal)
    done = imported("hf://org/Tiny.Base")
    folder = Path("tiny-base")
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == [
        "README.md",
        "config.json",
        "model.safetensors",
        "modpkg.toml",
        "notes",
    ]
    assert (folder / "model.safetensors").read_bytes() == base_weights()
    manifest = read_manifest(folder / "modpkg.toml")
    assert manifest.module is not None
    assert manifest.module.license == "LicenseRef-llama3.2"
    assert manifest.imported_from == f"hf://org/Tiny.Base@{repository.head.sha}"
    assert manifest.card.base_models == ("org/parent",)
    assert manifest.card.datasets == ("org/texts", "org/more: texts")
    assert (manifest.card.languages, manifest.card.tags) == (("en",), ("chat",))
    for left in ("pytorch_model.bin", "original/", "run.py", "extra.safetensors", "onnx/"):
        assert left in done.output
        assert not any(left in path for path in hub.paths())
    assert not any((tmp_path / "home" / "downloads").iterdir())


def test_nothing_is_told_on_the_output_but_what_was_done(hub: Hub) -> None:
    hub.repository("org/tiny", base_files())
    done = imported("hf://org/tiny", "--json")
    assert json.loads(done.stdout)["name"] == "tiny"
    assert "%" not in done.stderr


def test_a_revision_is_pinned(hub: Hub) -> None:
    repository = hub.repository("org/tiny", base_files())
    first = repository.head.sha
    repository.branches["refs/pr/1"] = first
    repository.commit({"README.md": b"gone"})
    for number, revision in enumerate((first, "refs/pr/1")):
        imported(f"hf://org/tiny@{revision}", "--out", f"out{number}")
        manifest = read_manifest(Path(f"out{number}/modpkg.toml"))
        assert manifest.imported_from == f"hf://org/tiny@{first}"
    message = failed("hf", "hf://org/tiny@v2", code="M862")
    assert "'v2'" in message


def test_an_adapter_with_its_base(hub: Hub) -> None:
    files = {
        "adapter_config.json": json.dumps(ADAPTER_CONFIG).encode(),
        "adapter_model.safetensors": adapter_weights(1),
        "optimizer.pt": b"x",
    }
    repository = hub.repository("org/formal", files)
    done = run("peft", "hf://org/formal", "--base", "tiny==1.0.0", "--license", "MIT")
    assert done.exit_code == 0, done.output
    manifest = read_manifest(Path("formal/modpkg.toml"))
    assert manifest.imported_from == f"hf://org/formal@{repository.head.sha}"
    message = failed("hf", "hf://org/formal", "--out", "b", code="M801")
    assert "modpkg import peft hf://org/formal@" in message


@pytest.mark.parametrize(
    ("form", "files", "said"),
    [
        ("hf", {"config.json": b"{}", "pytorch_model.bin": b"x"}, "pickles (pytorch_model.bin)"),
        ("peft", {"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, "pickles"),
        ("hf", {"config.json": b"{}", "model-q4.gguf": b"x"}, "modpkg import gguf"),
        ("hf", {"README.md": b"x"}, "no *.safetensors"),
        ("peft", {"config.json": b"{}", "model.safetensors": b"x"}, "modpkg import hf hf://"),
        ("peft", {"a.safetensors": b"x", "b.safetensors": b"x"}, "several adapters"),
    ],
)
def test_what_is_not_imported_is_not_fetched(
    form: str, files: dict[str, bytes], said: str, hub: Hub
) -> None:
    hub.repository("org/m", files)
    base = ["--base", "b"] if form == "peft" else []
    message = failed(form, "hf://org/m", *base, code="M801")
    assert said in message
    assert "hf://org/m@" in message
    assert not any("/resolve/" in path for path in hub.paths())


def test_shards_by_their_index(hub: Hub) -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "gone.safetensors"}})
    files = {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors.index.json": index.encode(),
        "model-1.safetensors": base_weights(),
        "model-2.safetensors": base_weights(),
    }
    hub.repository("org/m", files)
    assert "gone.safetensors" in failed("hf", "hf://org/m", code="M213")
    assert not any("model-2" in path for path in hub.paths())


def test_gated(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.repository("org/tiny", base_files(), gated=True)
    message = failed("hf", "hf://org/tiny", code="M861")
    assert "hf auth login" in message
    assert f"{hub.url}/org/tiny" in message
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(TOKEN)
    hub.granted = False
    assert "has not given your account access" in failed("hf", "hf://org/tiny", code="M861")
    hub.granted = True
    imported("hf://org/tiny")
    to_storage = [headers for _, path, headers in hub.seen if "signature=" in path]
    assert to_storage
    assert not any("authorization" in headers for headers in to_storage)
    monkeypatch.setenv("HF_TOKEN", "hf_anotherToken0123456789")
    message = failed("hf", "hf://org/tiny", "--out", "b", code="M861")
    assert "does not know the token" in message
    assert "anotherToken" not in message


def test_what_there_is_not(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repository("org/hidden", base_files(), private=True)
    for name in ("org/none", "org/hidden"):
        assert "hf auth login" in failed("hf", f"hf://{name}", code="M862")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    failed("hf", "hf://org/none", code="M862")
    imported("hf://org/hidden")


def sleeping(monkeypatch: pytest.MonkeyPatch, sleep: Callable[[float], None]) -> None:
    """Let the client of hubs sleep so, and no other thread of this process."""
    clock = SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    monkeypatch.setattr("modpkg.registry.hub_client.time", clock)


def test_a_hub_that_limits_requests_is_obeyed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleeping(monkeypatch, waits.append)
    hub.repository("org/tiny", base_files())
    answers: list[dict[str, str]] = [
        {"Retry_After": "7"},
        {"RateLimit": '"api";r=0;t=20', "RateLimit_Policy": '"fixed window";"api";q=500;w=300'},
        {
            "Retry_After": "Fri, 02 Jan 2015 00:00:30 GMT",
            "Date": "Fri, 02 Jan 2015 00:00:00 GMT",
        },
    ]

    def limit(handler: Handler) -> bool:
        if handler.path.startswith("/api/agent") or not answers:
            return False
        headers = answers.pop(0)
        handler.send_response_only(429)
        for name, value in {**headers, "Content_Length": "0"}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        return True

    hub.fault = limit
    imported("hf://org/tiny")
    assert waits == [7, 21, 30]
    answers = [{"Retry_After": "9"}]
    hub.fault = lambda handler: "config.json" in handler.path and limit(handler)
    imported("hf://org/tiny", "--out", "b")
    assert waits == [7, 21, 30, 9]
    answers = [{"Retry_After": "86400"}]
    hub.fault = limit
    message = failed("hf", "hf://org/tiny", "--out", "c", code="M863")
    assert "in 86400 seconds" in message
    assert "hf auth login" in message
    assert len(waits) == 4


def test_a_download_goes_on_where_it_stopped(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modpkg.registry.hub_client.RETRIES", 0)
    sleeping(monkeypatch, lambda seconds: None)
    weights = base_weights()
    hub.repository("org/tiny", base_files())

    def cut(handler: Handler) -> bool:
        if "signature=" not in handler.path:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(weights)))
        handler.end_headers()
        handler.wfile.write(weights[:1000])
        handler.close_connection = True
        return True

    hub.fault = cut
    assert "before its answer was complete" in failed("hf", "hf://org/tiny", code="M863")
    hub.fault = lambda handler: False
    hub.seen.clear()
    imported("hf://org/tiny")
    assert Path("tiny/model.safetensors").read_bytes() == weights
    asked = [headers.get("range") for _, path, headers in hub.seen if "signature=" in path]
    assert asked == ["bytes=1000-"]
    assert not any("resolve" in path and "config.json" in path for path in hub.paths())


@pytest.mark.parametrize("large", [True, False])
def test_another_file_than_is_listed_is_refused(large: bool, hub: Hub) -> None:
    repository = hub.repository("org/tiny", base_files())
    path = "model.safetensors" if large else "config.json"
    real = repository.head.files[path]
    other = bytes([real[0] ^ 1]) + real[1:]
    if large:
        hub.uploaded[hashlib.sha256(real).hexdigest()] = other
    else:
        hub.fault = lambda handler: f"/{path}" in handler.path and handler.file(other) is None
    for _ in range(2):
        message = failed("hf", "hf://org/tiny", code="M864")
        assert path in message
    assert not Path("tiny").exists()
    hub.uploaded.clear()
    hub.fault = lambda handler: False
    imported("hf://org/tiny")


def malformed(**change: Any) -> Any:
    """Return a fault that changes what the hub tells of a repository."""

    def fault(handler: Handler) -> bool:
        if not handler.path.startswith("/api/models/"):
            return False
        repository = handler.hub.repositories["org/tiny"]
        handler.answer(200, info_of(repository, repository.head, blobs=True) | change)
        return True

    return fault


FILE: dict[str, Any] = {"rfilename": "a.json", "size": 1, "blobId": "0" * 40}


@pytest.mark.parametrize(
    "change",
    [
        {"sha": "../main"},
        {"sha": None},
        {"siblings": None},
        {"siblings": 3},
        {"siblings": [{"rfilename": "config.json"}]},
        {"siblings": [FILE | {"size": -1}]},
        {"siblings": [FILE | {"size": 2**70}]},
        {"siblings": [FILE | {"rfilename": ["a"]}]},
        {"siblings": [FILE | {"blobId": "../../etc"}]},
        {"siblings": [FILE, FILE]},
        {"siblings": [FILE | {"rfilename": "a"}, FILE | {"rfilename": "a/b.json"}]},
        {"siblings": [FILE | {"lfs": {"size": 9, "sha256": "0" * 64, "pointerSize": 1}}]},
        {"siblings": [FILE | {"lfs": {"size": 1, "sha256": "xyz", "pointerSize": 1}}]},
        {"siblings": [FILE | {"lfs": [1]}]},
        {"id": {"a": 1}, "siblings": [FILE] * 100_001},
        {"createdAt": "never"},
        {"cardData": {"model-index": 3}, "siblings": []},
    ],
)
def test_answers_that_no_hub_gives(change: dict[str, Any], hub: Hub) -> None:
    hub.repository("org/tiny", base_files())
    hub.fault = malformed(**change)
    done = run("hf", "hf://org/tiny")
    assert getattr(done.exception, "code", None) in ("M863", "M801"), done.exception


@pytest.mark.parametrize("path", ["../x.json", "/etc/x.json", "a\\b.json", "C:x.json", "a//b.json"])
def test_paths_that_lead_elsewhere_are_left_out(path: str, hub: Hub, tmp_path: Path) -> None:
    repository = hub.repository("org/tiny", base_files())
    siblings = info_of(repository, repository.head, blobs=True)["siblings"]
    hub.fault = malformed(siblings=[*siblings, FILE | {"rfilename": path}])
    done = imported("hf://org/tiny")
    assert "a path that no release may have" in done.output
    assert not list(tmp_path.rglob("x.json"))


@pytest.mark.parametrize("body", [b"[" * 5_000, b"[" * 2_000_000, b"{}", b"\xff", b""])
def test_bodies_that_no_hub_sends(body: bytes, hub: Hub) -> None:
    hub.fault = lambda handler: handler.answer(200, body) is None
    failed("hf", "hf://org/tiny", code="M863")


def test_a_circle_of_redirects_ends(hub: Hub) -> None:
    hub.repository("org/tiny", base_files())
    hub.fault = lambda handler: (
        "/resolve/" in handler.path and handler.answer(302, Location=handler.path) is None
    )
    assert "in a circle" in failed("hf", "hf://org/tiny", code="M863")


def test_too_much_is_not_read(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "HUB_ANSWER_BYTES", 100_000)
    hub.repository("org/tiny", base_files())
    hub.fault = lambda handler: handler.answer(200, b" " * 200_000) is None
    assert "over 100.0 kB" in failed("hf", "hf://org/tiny", code="M863")
    hub.fault = lambda handler: handler.answer(200, b"x", Content_Encoding="gzip") is None
    assert "compressed" in failed("hf", "hf://org/tiny", code="M863")
    monkeypatch.undo()


def test_no_space(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repository("org/tiny", base_files())
    repository = hub.repositories["org/tiny"]
    siblings = info_of(repository, repository.head, blobs=True)["siblings"]
    weights = next(entry for entry in siblings if entry["rfilename"] == "model.safetensors")
    weights["size"] = weights["lfs"]["size"] = 2**60
    hub.fault = malformed(siblings=siblings)
    failed("hf", "hf://org/tiny", code="M502")


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeping(monkeypatch, lambda seconds: None)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "no connection" in failed("hf", "hf://org/tiny", code="M863")
    assert "--offline" in failed("hf", "hf://org/tiny", "--offline", code="M863")


def test_without_its_package(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    hub.repository("org/tiny", base_files())
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = failed("hf", "hf://org/tiny", code="M703")
    assert "pip install 'modpkg[hub]'" in message


def test_the_hub_stays_off_for_the_rest(hub: Hub) -> None:
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    hub.repository("org/tiny", base_files())
    imported("hf://org/tiny")
    with pytest.raises(OfflineModeIsEnabled):
        huggingface_hub.HfApi(endpoint=hub.url).model_info("org/tiny")


def test_a_name_of_a_hub_is_told_from_a_path() -> None:
    assert "hf://org/tiny" in run("hf", "org/tiny").output


def test_an_export_has_a_card_that_names_what_it_was_made_from(hub: Hub, home: Path) -> None:
    from modpkg.interop.model_card import read_card
    from tests.command import modpkg

    base = hub.repository("org/tiny", base_files())
    files = {
        "adapter_config.json": json.dumps(ADAPTER_CONFIG).encode(),
        "adapter_model.safetensors": adapter_weights(1),
        "README.md": b"---\nlicense: mit\ndatasets: org/polite\n---\n",
    }
    hub.repository("org/formal", files)
    for form, name, more in (("hf", "tiny", ()), ("peft", "formal", ("--base", "tiny==1.0.0"))):
        done = run(form, f"hf://org/{name}", *more)
        assert done.exit_code == 0, (done.output, done.exception)
        modpkg("build", name)
        modpkg("publish", name)
    Path("modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\nformal = "*"\ntiny = "*"\n'
        '[models.polite]\nbase = "tiny"\nsteps = [{ op = "lora", module = "formal" }]\n'
    )
    modpkg("install")
    modpkg("export", "polite", "out")
    text = (Path("out") / "README.md").read_text()
    assert f"| tiny | 1.0.0 | base | LicenseRef-llama3.2 | hf://org/tiny@{base.head.sha} |" in text
    for line in (
        "base_model:\n- org/tiny\n",
        "base_model_relation: finetune\n",
        "library_name: transformers\n",
    ):
        assert line in text
    said = read_card(Path("out")).card
    assert said.datasets == ("org/texts", "org/more: texts", "org/polite")
    assert said.tags == ("modpkg", "chat")
    modpkg("export", "formal", "--to", "peft", "adapter")
    assert "mit" in (Path("adapter") / "README.md").read_text()


@pytest.mark.parametrize(
    ("head", "license"),
    [
        ("license: apache-2.0", "Apache-2.0"),
        ("license: GPL-3.0", "GPL-3.0-only"),
        ("license: other\nlicense_name: acme-1", "LicenseRef-acme-1"),
        ("license: [mit, isc]", None),
        ("license: !!python/object/apply:os.system ['true']", None),
        ("a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [" + "*c, " * 9_000 + "]", None),
        ("a: " + "[" * 2_000, None),
        ("tags: " + json.dumps(["x" * 300, 3, None, "\u202e", "good"]), None),
        ("base_model: /home/me/llama", None),
        ("x" * 400_000, None),
    ],
)
def test_the_head_of_a_card(head: str, license: str | None, tmp_path: Path) -> None:
    from modpkg.interop.model_card import read_card

    (tmp_path / "README.md").write_text(f"---\n{head}\n---\ntext")
    card = read_card(tmp_path)
    assert card.license in (license, "MIT AND ISC" if "isc" in head else license)
    assert card.card.base_models == ()
    assert set(card.card.tags) <= {"good"}
