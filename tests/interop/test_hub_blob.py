"""A hub's cache: links to blobs whose names promise their bytes."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from modpkg.interop.hf import import_hf
from modpkg.interop.hub_blob import check_hub_blob, check_link, check_links
from modpkg.interop.peft import import_peft
from tests import tiny
from tests.raising import raises


def cached(folder: Path, files: dict[str, bytes]) -> Path:
    """Write a cache as huggingface_hub does, and return the folder of its snapshot."""
    snapshot = folder / "models--org--name" / "snapshots" / ("a" * 40)
    blobs = folder / "models--org--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path, data in files.items():
        name = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if path.endswith(".safetensors"):
            name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        (snapshot / path).symlink_to(f"../../blobs/{name}")
    return snapshot


FILES = {
    "adapter_config.json": b'{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}',
    "adapter_model.safetensors": tiny.adapter_weights(),
}


@pytest.mark.parametrize("damaged", [None, *FILES])
def test_an_import_from_a_cache_checks_its_blobs(damaged: str | None, tmp_path: Path) -> None:
    snapshot = cached(tmp_path, FILES)
    if damaged is None:
        import_peft(snapshot, tmp_path / "out", "a", "1.0", base="tiny", license="MIT")
        for path, data in FILES.items():
            assert (tmp_path / "out" / path).read_bytes() == data
        return
    blob = (snapshot / damaged).resolve()
    data = blob.read_bytes()
    changed = data.replace(b'"r": 2', b'"r": 3')
    blob.write_bytes(changed if changed != data else data[:-1] + bytes([data[-1] ^ 1]))
    with raises("M801", match=damaged.replace(".", r"\.")):
        import_peft(snapshot, tmp_path / "out", "a", "1.0", base="tiny", license="MIT")
    assert not (tmp_path / "out").exists()


def test_other_links_and_names_are_not_judged(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    for name in ("weights", "A" * 40, "f" * 39):
        (tmp_path / "blobs" / name).write_bytes(b"x")
        (tmp_path / f"link-{name}").symlink_to(tmp_path / "blobs" / name)
        check_hub_blob(tmp_path / f"link-{name}")
    (tmp_path / ("f" * 40)).write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / ("f" * 40))
    check_hub_blob(tmp_path / "link")
    check_hub_blob(tmp_path / "blobs" / "weights")


@pytest.mark.parametrize("folder", ["plain", "snapshot"])
@pytest.mark.parametrize("what", ["README.md", "config.json", "1_Pooling", "model.safetensors"])
def test_an_import_follows_no_link_out_of_its_folder(
    what: str, folder: str, tmp_path: Path
) -> None:
    """What it leads to would be published."""
    model = {"config.json": b"{}", "model.safetensors": tiny.base_weights(), "README.md": b"x"}
    source = cached(tmp_path, model)
    if folder == "plain":
        source = shutil.copytree(source, tmp_path / "plain")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    (source / what).unlink(missing_ok=True)
    (source / what).symlink_to(secret if what == "1_Pooling" else secret / "key")
    with raises("M513", match="leads out of"):
        check_links(source)
    with raises("M513"):
        import_hf(source, tmp_path / "out", "m", "1.0")
    with raises("M513"):
        import_peft(source, tmp_path / "out", "m", "1.0", base="b")
    assert not (tmp_path / "out").exists()


def test_links_inside_a_folder_or_to_nowhere_lead_not_out(tmp_path: Path) -> None:
    source = cached(tmp_path, FILES)
    (source / "sub").mkdir()
    (source / "sub" / "inner").symlink_to("../adapter_config.json")
    (source / "broken").symlink_to(tmp_path / "nowhere")
    (source / "loop").symlink_to("loop")
    (source / ".hidden").symlink_to("/etc")
    check_links(source)
    check_links(source / "sub")
    (tmp_path / "given").symlink_to(source)
    check_links(tmp_path / "given")


def test_a_caches_blobs_are_only_those_beside_the_snapshot(tmp_path: Path) -> None:
    source = cached(tmp_path, FILES)
    blobs = source.parents[1] / "blobs"
    name = "f" * 64
    (tmp_path / name).write_text("secret")
    (blobs / name).symlink_to(tmp_path / name)
    (source / "x.json").symlink_to(f"../../blobs/{name}")
    with raises("M513"):
        check_links(source)
    (source / "x.json").unlink()
    check_links(source)
    (blobs / "key").write_text("secret")
    (source / "y.json").symlink_to("../../blobs/key")
    with raises("M513"):
        check_links(source)
    (source / "y.json").unlink()
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with raises("M513"):
        check_links(source)


def test_parts_of_a_gguf_model_are_links_into_the_cache_only(tmp_path: Path) -> None:
    source = cached(tmp_path, {"a.gguf": b"GGUF"})
    check_link(source, source / "a.gguf")
    (tmp_path / "secret").write_text("secret")
    (source / "b.gguf").symlink_to(tmp_path / "secret")
    with raises("M513"):
        check_link(source, source / "b.gguf")
