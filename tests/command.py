"""Running the command line as a person does: in a separate process."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import jsonschema

from modpkg.cli.documents import SHAPES, command_schema
from tests import forkserver


def modpkg(
    *arguments: str | Path, cwd: Path | None = None, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command; with ``check`` it has to succeed."""
    done = forkserver.run(
        "-m", "modpkg", *map(str, arguments), cwd=cwd, env=os.environ | environment
    )
    if check:
        assert done.returncode == 0, f"{done.returncode}: {done.stderr}{done.stdout}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


def modpkg_json(*arguments: str | Path, cwd: Path | None = None) -> Any:
    """Run a command with --json and return what it printed, which has to be of its shape."""
    document = json.loads(modpkg(*arguments, "--json", cwd=cwd).stdout)
    check_shape(document, *map(str, arguments))
    return document


def check_shape(document: Any, *arguments: str) -> None:
    """Check a document against the schema of the command that printed it, and for other fields."""
    assert document["schema"] == 1
    name = next(" ".join(arguments[:n]) for n in (3, 2, 1) if " ".join(arguments[:n]) in SHAPES)
    _validator(name).validate(document)


@functools.cache
def _validator(command: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_closed(command_schema(command)))


def _closed(schema: Any) -> Any:
    """Return a schema that allows only the fields that it names."""
    if isinstance(schema, dict):
        closed = {key: _closed(value) for key, value in schema.items()}
        if isinstance(schema.get("properties"), dict):
            closed.setdefault("additionalProperties", False)
        return closed
    return [_closed(part) for part in schema] if isinstance(schema, list) else schema


def refused(*arguments: str | Path, cwd: Path | None = None, status: int = 1) -> str:
    """Run a command that has to fail, and return its error message."""
    done = modpkg(*arguments, cwd=cwd, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr.strip()


_KILLED_AFTER = """
import signal, time
from modpkg.cli import main

signal.setitimer(signal.ITIMER_PROF, {seconds})
begun = time.process_time()
try:
    main({arguments!r})
finally:
    print(time.process_time() - begun)
"""


def killed_after(seconds: float, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that is killed after so much of its own processor time; 0: never.

    What else the machine has to do makes no difference to where that is. Without being killed, it
    prints its processor time in the end.
    """
    code = _KILLED_AFTER.format(seconds=seconds, arguments=list(arguments))
    done = forkserver.run("-c", code)
    assert done.returncode in (0, -signal.SIGPROF), done.stderr
    return done
