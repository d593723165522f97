"""A small world to tamper with: a registry, an app with a model, and what must hold after."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from msgspec import Struct

from modpkg.cli import main
from modpkg.core.records import IndexLine
from modpkg.environment.generations import Environment
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.runtime.load import load_model
from modpkg.store.store import Store
from tests import tiny
from tests.changing import Numbers, build_for
from tests.conftest import safetensors_bytes
from tests.modules import write_module
from tests.registry.servers import serve

HIDDEN = 64
WANTED = "talker[loud]==2.0"
_ERROR = re.compile(r"^error\[M\d{3}\]: \S.*[.?:]$")


class CommandResult(Struct, frozen=True):
    """A command's exit status and output."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that are neither warnings nor transfer reports."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return [line for line in lines if not line.startswith(("warning", "Fetched"))]


def command(*arguments: str) -> CommandResult:
    """Run a command as a person does, but in this process: it is run hundreds of times."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as left:
            status = int(left.code or 0)
    return CommandResult(status, out.getvalue(), err.getvalue())


def flip(path: Path, at: int, bit: int) -> None:
    """Flip one bit of a file, in place: its other names show it too."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
    path.chmod(mode)


def spread(start: int, stop: int, count: int = 12) -> list[tuple[int, int]]:
    """Return bytes from the first to the last, each with a bit to flip."""
    count = max(3, count * 3 // 5)
    last = stop - 1 - start
    places = sorted({start + last * step // (count - 1) for step in range(count)})
    return [(at, number % 8) for number, at in enumerate(places)]


class World:
    """A registry, and an app with talker 1.0 installed from it; talker 2.0 is to be installed.

    ``home`` has an empty store. All of it but the registry is put back by `restore`.
    """

    def __init__(self, root: Path, *, deltas: bool) -> None:
        self.root = root
        self.deltas = deltas
        self.registry = root / "registry"
        self.address = str(self.registry)
        self._publish(deltas)
        self.app.mkdir(parents=True)
        (self.app / "modpkg.toml").write_text('[app]\nname = "app"\n')
        with self.entered():
            self._done("install", "talker[loud]==1.0")
            self._done("install", WANTED)
            self.truth = self.state()
            self.weights = self.installed()
            lock = (self.app / "modpkg.lock").read_bytes()
            manifest = (self.app / "modpkg.toml").read_bytes()
            self._done("rollback")
            self.keep("full")  # 1.0 is installed, and the store has all of both
            (self.app / "modpkg.toml").write_bytes(manifest)
            (self.app / "modpkg.lock").write_bytes(lock)
            self.keep("locked")  # the lock is 2.0's, and the store has it
            shutil.rmtree(self.home / "store")
            self.keep("to-fetch")  # the lock is 2.0's, and the store is empty
            self.restore("full")
            shutil.rmtree(self.home / "store")
            self.keep("old")  # 1.0 is installed, and the store is empty

    @property
    def place(self) -> Path:
        return self.root / "place"

    @property
    def home(self) -> Path:
        return self.place / "home"

    @property
    def app(self) -> Path:
        return self.place / "app"

    @property
    def environment(self) -> Environment:
        return Environment(self.app / ".modpkg")

    @property
    def store(self) -> Store:
        return Store(self.home / "store")

    @contextlib.contextmanager
    def entered(self, *, http: bool = False) -> Iterator[None]:
        """Be in the app, with the registry in its folder or behind a server."""
        before, here = dict(os.environ), Path.cwd()
        with contextlib.ExitStack() as stack:
            if http:
                self.address = stack.enter_context(serve(self.registry)).url
            os.environ["MODPKG_HOME"] = str(self.home)
            os.environ["MODPKG_REGISTRY"] = self.address
            os.chdir(self.app)
            try:
                yield
            finally:
                os.chdir(here)
                os.environ.clear()
                os.environ.update(before)
                self.address = str(self.registry)

    def keep(self, name: str) -> None:
        """Remember home and app under a name."""
        target = self.root / "kept" / name
        target.parent.mkdir(exist_ok=True)
        subprocess.run(["cp", "-a", self.place, target], check=True)

    def restore(self, name: str) -> None:
        """Put home and app back to what they were."""
        os.chdir(self.root)
        shutil.rmtree(self.place)
        subprocess.run(["cp", "-a", self.root / "kept" / name, self.place], check=True)
        lock = self.app / "modpkg.lock"  # it was made with the registry in its folder
        lock.write_text(lock.read_text().replace(str(self.registry), self.address))
        os.chdir(self.app)

    def state(self) -> tuple[bytes, bytes, int | None]:
        """Return lock and manifest, and which generation is the current one."""
        lock, manifest = self.app / "modpkg.lock", self.app / "modpkg.toml"
        return lock.read_bytes(), manifest.read_bytes(), self.environment.current_number()

    def installed(self) -> str:
        """Return a digest of talker's weights as they lie in the environment, and of its config."""
        state = hashlib.sha256()
        record = self.environment.model("talker")
        for name, ref in sorted(record.tensors.items()):
            with open(self.environment.packs / ref.file, "rb") as file:
                file.seek(ref.offset)
                state.update(f"{name} {ref.dtype} {ref.shape} ".encode() + file.read(ref.length))
        config = self.environment.model_folder("talker") / "config.json"
        state.update(json.dumps(json.loads(config.read_bytes()), sort_keys=True).encode())
        return state.hexdigest()

    def loads(self) -> None:
        """Check that the installed talker can be loaded."""
        model = load_model(self.environment.model_folder("talker"), self.environment.packs)
        assert sum(parameter.numel() for parameter in model.parameters()) > 1000

    def judge(
        self, result: CommandResult, before: tuple[bytes, bytes, int | None], weights: str
    ) -> bool:
        """Return whether a command reported damage; check that nothing wrong is installed.

        ``before`` and ``weights`` are what has to be there if it did; else talker 2.0 has to be.
        """
        if result.status == 0:
            assert self.installed() == self.weights, result.out
            return False
        assert result.status == 1, result
        assert _ERROR.match(result.errors[0]), result.err
        # only that no versions fit together takes more than a line
        assert len(result.errors) == 1 or "[M401]" in result.errors[0], result.err
        assert self.state() == before
        assert self.installed() == weights
        return True

    def lines(self) -> dict[str, IndexLine]:
        """Return the index lines of what talker 2.0 is made of, by name."""
        registry = Registry(str(self.registry))
        return {name: registry.line(name, "2.0") for name in ("talker", "tiny", "tiny-lora")}

    def _done(self, *arguments: str) -> None:
        done = command(*arguments)
        assert done.status == 0, done.err

    def _publish(self, deltas: bool) -> None:
        projects = self.root / "projects"
        first = _weights()
        for version, weights in (("1.0", first), ("2.0", _changed(first))):
            folder = _write_base(projects / f"tiny-{version}", version, weights)
            built = build_for(folder, self.registry, deltas=deltas)
            RegistryWriter(self.registry, "registry").publish(
                Registry(str(folder / "dist")), built.line
            )
            adapter = tiny.write_adapter(
                projects / f"lora-{version}",
                version,
                int(version[0]),
                f"~={version}",
                hidden=HIDDEN,
            )
            tiny.publish(adapter, self.registry)
            model = tiny.write_model(projects / f"talker-{version}", version, "", f"~={version}")
            text = (model / "modpkg.toml").read_text().replace('tiny-lora = ""\n', "")
            text += f'[extras]\nloud = ["tiny-lora~={version}"]\n'
            (model / "modpkg.toml").write_text(text)
            tiny.publish(model, self.registry)


def _weights() -> Numbers:
    """Return the tensors of a tiny Llama in bfloat16."""
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (tiny.VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(tiny.LAYERS):
        path = f"model.layers.{layer}"
        for name in "qkvo":
            shapes[f"{path}.self_attn.{name}_proj.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{path}.mlp.gate_proj.weight"] = (tiny.INNER, HIDDEN)
        shapes[f"{path}.mlp.up_proj.weight"] = (tiny.INNER, HIDDEN)
        shapes[f"{path}.mlp.down_proj.weight"] = (HIDDEN, tiny.INNER)
        shapes[f"{path}.input_layernorm.weight"] = (HIDDEN,)
        shapes[f"{path}.post_attention_layernorm.weight"] = (HIDDEN,)
    return {
        name: (rng.normal(0, 0.02, shape).astype("<f4").view("<u4") >> 16).astype("<u2")
        for name, shape in shapes.items()
    }


def _changed(old: Numbers) -> Numbers:
    """Return the next version: a few values of one tensor, low bits of another, all of a third."""
    rng = np.random.default_rng(1)
    new = {name: values.copy() for name, values in old.items()}
    new["model.embed_tokens.weight"][3, :5] ^= 0x155
    name = "model.layers.0.self_attn.q_proj.weight"
    new[name] += (rng.random(new[name].shape) < 0.3).astype("<u2")
    name = "model.layers.0.self_attn.k_proj.weight"
    fresh = rng.normal(0, 0.02, new[name].shape).astype("<f4")
    new[name] = (fresh.view("<u4") >> 16).astype("<u2")
    return new


def _write_base(folder: Path, version: str, weights: Numbers) -> Path:
    data = safetensors_bytes(
        {name: ("BF16", list(value.shape), value.tobytes()) for name, value in weights.items()}
    )
    config = tiny.CONFIG | {"hidden_size": HIDDEN, "dtype": "bfloat16"}
    files = {"model.safetensors": data, "config.json": json.dumps(config).encode()}
    return write_module(folder, "tiny", version, "base", files=files)
