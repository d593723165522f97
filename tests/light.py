"""What a light install can do: run in an environment of ``requirements-light.txt``.

``python -m tests.light`` works in the current folder, and prints what it saw.
"""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.story import folders, modpkg, refused, run


def tell() -> dict[str, Any]:
    folders(Path("saved"))
    warnings.simplefilter("error", EncodingWarning)
    said = {}
    base = ("--name", "tiny", "--version", "1.0", "--license", "MIT")
    said["import"] = run("import", "hf", "saved/base", "--out", "base", *base)[2]
    modpkg("-C", "base", "build")
    modpkg("-C", "base", "publish")
    for version, folder in (("1.0", "one"), ("1.1", "two")):
        lora = ("--name", "tiny-lora", "--version", version, "--license", "MIT", "--base", "tiny")
        modpkg("import", "peft", f"saved/{folder}", "--out", folder, *lora)
        modpkg("-C", folder, "build")
        said[f"check {version}"] = modpkg("-C", folder, "check")
        modpkg("-C", folder, "publish")
    app = Path("app")
    app.mkdir()
    live = '[app]\nname = "app"\n[dependencies]\ntiny = "*"\ntiny-lora = "==1.0"\n'
    (app / "modpkg.toml").write_text(live, encoding="utf-8")
    modpkg("-C", app, "lock")
    said["install"] = modpkg("-C", app, "install")
    for command in ("list", "tree", "why tiny", "outdated", "licenses", "registry list"):
        said[command] = modpkg("-C", app, *command.split())
    modpkg("-C", app, "install", "tiny-lora==1.1")
    modpkg("-C", app, "rollback")
    modpkg("-C", app, "vendor", "vendored")
    modpkg("-C", app, "export", "tiny", "exported")
    said["diff"] = modpkg("diff", "tiny-lora==1.0", "tiny-lora==1.1")
    said["changelog"] = modpkg("changelog", "tiny-lora==1.0", "tiny-lora==1.1")
    said["run"] = refused("-C", app, "run", "tiny", "text")
    fused = (
        live + '[models.fused]\nbase = "tiny"\nsteps = [{ op = "lora", module = "tiny-lora" }]\n'
    )
    (app / "modpkg.toml").write_text(fused, encoding="utf-8")
    said["fused"] = modpkg("-C", app, "install")
    modpkg("store", "verify")
    modpkg("store", "gc")
    import modpkg as api

    for function in (api.load, api.pipeline):
        try:
            function("tiny", project=app)
        except api.ModpkgError as error:  # noqa: PERF203
            said[f"api {function.__name__}"] = str(error)
    said["torch"] = find_spec("torch") is not None
    return said


if __name__ == "__main__":
    print(json.dumps(tell()))
