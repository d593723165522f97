"""Every command and example of README and docs is run, or says why not.

A block of `tests.documents.CHECKED` languages is run in a world that has the names it uses
(`tests/e2e/docs_world.py`), one page after the other from its beginning to its end. Above a block
that is not run stands ``<!-- not run: reason -->``, or ``<!-- shown by: command -->`` where a test
compares it with what that command prints; ``<!-- in: FOLDER -->`` says in which folder of the world
it is run, and ``<!-- exits: 1 -->`` that a command of it may exit so.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import click
import pytest
import tomli
from filelock import FileLock

from modpkg.cli import cli
from modpkg.community.patch.resolution_file import read_choices as read_resolution
from modpkg.core.errors import ModpkgError
from modpkg.manifest.config import parse_settings
from modpkg.manifest.read import read_manifest
from tests import forkserver
from tests.command import modpkg
from tests.documents import CHECKED, PAGES, ROOT, Block, blocks_of
from tests.e2e.docs_world import make_world
from tests.hub_server import TOKEN, Hub, hub_server
from tests.registry.s3 import running_s3, use_s3
from tests.tiny import ADAPTER_CONFIG, CONFIG, adapter_weights, base_weights

BUCKET = "s3://models"
HUB = "hf://acme/"
ELSEWHERE = {"/srv/models": "srv", "https://models.acme.example": "acme"}
"""Addresses in the pages, and the folder of the world that stands for each."""
PRELUDE = """
from pathlib import Path
import modpkg
article = "the cat sat on a mat"
batch = modpkg.tokenizer("summarizer")([article] * 3, return_tensors="pt")
inputs = modpkg.tokenizer("summarizer")(article, return_tensors="pt")
"""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the world, made once per test run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "docs-world"
    with FileLock(shared / "docs-world.lock"):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make_world(folder)
            bin_folder = folder / "bin"
            bin_folder.mkdir()
            (bin_folder / "python").symlink_to(forkserver.python())
            (bin_folder / "modpkg").write_text('#!/bin/sh\nexec python -m modpkg "$@"\n')
            (bin_folder / "modpkg").chmod(0o755)
            home = {"MODPKG_HOME": str(folder / "home")}
            registry = {"MODPKG_REGISTRY": str(folder / "registry")}
            prepare(folder / "page", home | registry)
            (folder / "made").touch()
    return folder


def prepare(page: Path, variables: dict[str, str]) -> None:
    """Install the app, lock an update of it, and publish two patches, by commands."""

    def command(*arguments: str) -> None:
        modpkg(*arguments, cwd=page, **variables)

    command("install")
    manifest = page / "modpkg.toml"
    manifest.write_text(manifest.read_text().replace('formal = "==1.0.0"', 'formal = "^1"'))
    command("install")
    shutil.copy(page / "modpkg.lock", page / "old.lock")
    command("lock", "--upgrade-package", "formal")
    (page / "modpkg.lock").rename(page / "new.lock")
    shutil.copy(page / "old.lock", page / "modpkg.lock")
    for copy, name in (("tuned", "patch-a"), ("copy", "patch-b")):
        command("patch", "create", "--base", "clamp==1.0.0", copy, "--name", name, "--out", name)
        command("build", name)
        command("publish", name)


class Reader:
    """Somebody who reads a page, and types what is in it."""

    def __init__(self, world: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        for name in ("registry", "home", "page"):
            shutil.copytree(world / name, folder / name, symlinks=True)
        monkeypatch.setenv("PATH", f"{world / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("HOME", str(folder))
        monkeypatch.setenv("MODPKG_HOME", str(folder / "home"))
        monkeypatch.setenv("MODPKG_REGISTRY", str(folder / "registry"))
        for name in ELSEWHERE.values():
            shutil.copytree(world / "registry", folder / name)
        for lock in folder.rglob("modpkg.lock"):  # it has the address of its registry
            lock.write_text(lock.read_text().replace(str(world), str(folder)))
        self.state = folder / "state.sh"
        self.state.write_text(f"cd {folder / 'page'}\n")

    def run(self, command: str) -> tuple[int, str]:
        """Run a command of the shell where the one before it ended; return status and output."""
        for address, name in ELSEWHERE.items():
            command = command.replace(address, str(self.folder / name))
        keep = f'{{ export -p; printf "cd %q\\n" "$PWD"; }} >{self.state}'
        script = f"source {self.state}\nset -o pipefail\n{command}\nstatus=$?\n{keep}\nexit $status"
        done = subprocess.run(
            ["bash", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=600,
        )
        assert "Traceback" not in done.stdout, done.stdout
        return done.returncode, done.stdout

    def console(self, block: Block) -> None:
        """Run the commands of a transcript."""
        for command, _ in block.transcript():
            status, printed = self.run(command)
            allowed = (0, int(block.marks.get("exits", 0)))
            assert status in allowed, f"{command}: exit status {status}\n{printed}"

    def fails(self, block: Block) -> str | None:
        """Return why a block does not work; None if it does."""
        try:
            self.read(block)
        except (AssertionError, ModpkgError) as error:
            return f"{block.page.name}:{block.line}: {error}"
        return None

    def read(self, block: Block) -> None:
        """Do what a block says."""
        self.run(f"cd {self.folder / 'page' / block.marks.get('in', '.')}")
        if block.language == "console":
            self.console(block)
        elif block.language == "sh":
            status, printed = self.run(block.text)
            assert status == 0, printed
        elif block.language == "python":
            (self.folder / "page" / "example.py").write_text(PRELUDE + block.text)
            status, printed = self.run("python example.py")
            assert status == 0, printed
        else:
            read_toml(block)


def read_toml(block: Block) -> None:
    """Check that the reader of a file accepts a file, or a part of one."""
    tables = tomli.loads(block.text).keys()
    path = Path.cwd() / "block.toml"
    if tables & {"registry", "store", "places"}:
        parse_settings(block.text, path)
    elif tables & {"tensors"}:
        path.write_text(block.text)
        read_resolution(path)
    elif tables:
        path.write_text(completed(block.text, tables))
        read_manifest(path)


def completed(text: str, tables: Collection[str]) -> str:
    """Return a whole manifest with a part in it: its head, and the dependencies that it uses."""
    if "steps" in tables:
        text = f'[compose]\nbase = "smollm2-135m"\n{text}'
    named = {*re.findall(r'(?:\bmodule|\bbase|merge) = "([a-z0-9.-]+)"', text)}
    if set(tables) == {"models"} and "base" not in text:
        name = re.findall(r"\[models\.([\w-]+)", text)[0]
        text, named = f'[models.{name}]\nbase = "smollm2-135m"\n{text}', {"smollm2-135m"}
    listed = tomli.loads(text).get("dependencies", {})
    added = "".join(f'{name} = "*"\n' for name in sorted(named - listed.keys()))
    if "[dependencies]\n" in text:
        text = text.replace("[dependencies]\n", f"[dependencies]\n{added}")
    else:
        text += f"\n[dependencies]\n{added}"
    if "module" in tables and "version" not in tomli.loads(text)["module"]:
        rest = 'version = "1.0"\nlicense = "MIT"\nkind = "adapter"\n'
        return text.replace("[module]\n", f"[module]\n{rest}", 1)
    if set(tables) & {"module", "app"}:
        return text
    if set(tables) & {"models", "licenses"}:
        return f'[app]\nname = "app"\n\n{text}'
    kind = "model" if "[compose]" in text else "base"
    return f'[module]\nname = "it"\nversion = "1.0"\nkind = "{kind}"\nlicense = "MIT"\n\n{text}'


def fill_hub(hub: Hub) -> None:
    """Make the repositories that the pages name."""
    hub.repository("acme/models")
    base = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": base_weights()}
    hub.repository("acme/tiny-llama", base)
    adapter = {"adapter_config.json": json.dumps(ADAPTER_CONFIG).encode()}
    hub.repository("acme/polite", adapter | {"adapter_model.safetensors": adapter_weights(1)})


def is_run(block: Block) -> bool:
    return block.language in CHECKED and not block.marks.keys() & {"not run", "shown by"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_works(
    page: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [block for block in blocks_of(page) if is_run(block)]
    if not blocks:
        return
    reader = Reader(world, tmp_path / "reader", monkeypatch)
    with contextlib.ExitStack() as servers:
        if any(BUCKET in block.text for block in blocks):
            url = servers.enter_context(running_s3())
            use_s3(monkeypatch, url)
            urlopen(Request(f"{url}/{urlsplit(BUCKET).netloc}", method="PUT")).close()
        if any(HUB in block.text for block in blocks):
            hub = servers.enter_context(hub_server())
            fill_hub(hub)
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            monkeypatch.setenv("HF_TOKEN", TOKEN)
        failed = [reason for block in blocks if (reason := reader.fails(block))]
    assert not failed, "\n\n".join(failed)


@pytest.mark.parametrize(
    "block", [b for page in PAGES for b in blocks_of(page)], ids=lambda b: f"{b.page.name}:{b.line}"
)
def test_a_mark_has_its_reason(block: Block) -> None:
    for mark, reason in block.marks.items():
        assert mark in ("not run", "shown by", "in", "exits"), mark
        assert len(reason.split()) >= 1, f"{block.page.name}:{block.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_sentences_exist(page: Path) -> None:
    """Of each `modpkg …` in a sentence or a table there is the command, with its options."""
    for text in re.findall(r"`modpkg ([a-z][^`]*)`", page.read_text()):
        context = click.Context(cli)
        words = text.split()
        command: click.Command | None = cli
        while isinstance(command, click.Group) and words and words[0][0] not in "-[<":
            command = command.get_command(context, words.pop(0))
        assert command is not None, text
        options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
        used = {word.partition("=")[0].rstrip(",)") for word in words if word.startswith("-")}
        own = used if "--" not in words else set()
        assert own <= options | {"--", "--help"}, text
