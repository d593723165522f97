"""The core story of modpkg in one process: from two folders of weights to a model that is updated.

``python -m tests.story SYSTEM`` works in the current folder, as on that system, and prints what the
models came out as, which is the same everywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from modpkg.cli import main
from modpkg.core.system import set_mode
from tests import tiny
from tests.without import become


def run(*arguments: str | Path) -> tuple[Any, str, str]:
    """Run a command in this process; return status, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    status: Any = None
    folder = Path.cwd()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = ended.code
        finally:
            os.chdir(folder)  # after -C
    return status, out.getvalue(), err.getvalue()


def modpkg(*arguments: str | Path) -> str:
    """Run a command that has to succeed, and return its output."""
    status, out, err = run(*arguments)
    assert status == 0, f"{arguments}: {err}{out}"
    return out


def refused(*arguments: str | Path) -> str:
    """Run a command that has to fail, and return its error."""
    status, out, err = run(*arguments)
    assert status == 1, f"{arguments}: {out}{err}"
    return err


def release(kind: str, source: Path, name: str, version: str, *options: str) -> None:
    """Import a folder, build it and publish it."""
    project = Path("projects", f"{name}-{version}")
    as_is = ("--name", name, "--version", version, "--license", "MIT")
    modpkg("import", kind, source, "--out", project, *as_is, *options)
    modpkg("-C", project, "build")
    modpkg("-C", project, "publish", "--allow-breaking", "other weights")


def folders(root: Path) -> None:
    """Write a base and two adapters as transformers and PEFT save them."""
    tiny.write_base(root / "base")
    tiny.write_adapter(root / "one")
    tiny.write_adapter(root / "two", seed=2)
    for manifest in root.glob("*/modpkg.toml"):
        manifest.unlink()


def weights(model: Any) -> str:
    """Return a digest of a loaded model's weights."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode() + tensor.numpy().tobytes())
    return state.hexdigest()


def tell(system: str) -> dict[str, Any]:
    """Run the story in the working folder, as on a system."""
    import filelock  # noqa: F401 - what others do on import is not the question
    import torch._dynamo  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import modpkg as api

    folders(Path("saved"))
    if system != "linux":
        become(system)
    told: dict[str, Any] = {}
    release("hf", Path("saved/base"), "tiny", "1.0")
    release("peft", Path("saved/one"), "tiny-lora", "1.0", "--base", "tiny")
    app = Path("app")
    app.mkdir()
    (app / "modpkg.toml").write_bytes(tiny.APP.encode())
    modpkg("-C", app, "install")
    first = api.load("mine", project=app)  # stays mapped while the rest goes on
    told["first"] = weights(first)
    release("peft", Path("saved/two"), "tiny-lora", "1.1", "--base", "tiny")
    modpkg("-C", app, "update")
    told["updated"] = weights(api.load("mine", project=app))
    told["live"] = weights(api.load("mine", project=app, live=True))
    modpkg("-C", app, "rollback")
    told["rolled back"] = weights(api.load("mine", project=app))
    told["still mapped"] = weights(first)
    told["tree"] = modpkg("-C", app, "tree")
    told["list"] = modpkg("-C", app, "list")
    modpkg("-C", app, "vendor", "vendored")
    modpkg("-C", app, "export", "mine", "exported")
    modpkg("-C", "projects/tiny-lora-1.1", "check")
    modpkg("diff", "tiny-lora==1.0", "tiny-lora==1.1")
    packs = [path for path in Path("home/store/packs").rglob("*") if path.is_file()]
    pack = max(packs, key=lambda path: path.stat().st_size)  # the base's
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    set_mode(pack, 0o644)
    pack.write_bytes(data)
    told["repaired"] = run("store", "verify")[1].splitlines()[-1]
    for _ in range(2):
        modpkg("store", "verify")
        modpkg("store", "gc", "--older-than", "0 days")
    del first
    modpkg("-C", app, "install", "tiny-lora==1.1")
    told["again"] = weights(api.load("mine", project=app))
    modpkg("store", "gc", "--older-than", "0 days", "--max-size", "0 B")
    modpkg("store", "verify")
    told["after gc"] = weights(api.load("mine", project=app))
    told["left"] = sorted(str(path) for path in Path().rglob(".tmp-*"))
    return told


if __name__ == "__main__":
    print(json.dumps(tell(sys.argv[1])))
