"""A hub's cache: links to blobs whose names promise their bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from modpkg.interop.hub_blob import check_hub_blob
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
