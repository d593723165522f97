"""Runs commands on hostile inputs: ``python -m tests.hostile.runner FOLDER CLASS REPORT``.

Each command runs in a process that is forked from this one, which has imported what commands
import, with the time of its processor and the most of its memory taken. Where the kernel can
(x86-64 Linux), a filter of system calls ends the process when it opens a socket of the internet
that its input has no use for; what writes outside of its folders is seen by Python's audit events.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from tests.forkclient import INTERPRETER
from tests.hostile.case import Input
from tests.hostile.inputs import INPUTS
from tests.hostile.socket_filter import INTERNET, no_sockets
from tests.hostile.world import World

SECONDS = 10
"""Most time of the processor: a busy machine may take longer."""
MEBIBYTES = 500
PRINTED = 200_000
"""Most characters that a command may print."""
_ERROR = re.compile(r"^error\[M\d{3}\]: \S")
_UNCLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_WRITING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod")


class Outcome(NamedTuple):
    """What a command did with an input."""

    name: str
    status: int
    seconds: float
    processor: float
    mebibytes: int
    said: str
    """The first error, or nothing."""
    problem: str
    """What is wrong with it, or nothing."""


def run(world: World, given: Input) -> Outcome:
    """Make an input, run its command, and judge."""
    world.restore(given.state)
    with contextlib.ExitStack() as stack:
        address = given.make(world)
        if address is not None:  # a server's, which runs until the command has ended
            address = stack.enter_context(address)
        before = world.outside()
        begun = time.monotonic()
        status, usage, base = _forked(world, given, address)
        seconds = time.monotonic() - begun
    out, err = (_text(world, name) for name in ("out", "err"))
    processor = usage.ru_utime + usage.ru_stime
    grown = max(0, usage.ru_maxrss - base) >> 10
    first = next((line for line in err.splitlines() if line.startswith("error")), "")
    problem = _problem(world, given, status, out, err, seconds, processor, grown)
    if not problem and (after := world.outside()) != before:
        changed = sorted({*before.items()} ^ {*after.items()})
        problem = f"changed {changed[0][0]}"
    return Outcome(given.name, status, seconds, processor, grown, first[:300], problem)


def _problem(
    world: World,
    given: Input,
    status: int,
    out: str,
    err: str,
    seconds: float,
    processor: float,
    grown: int,
) -> str:
    told = _text(world, "told")
    if status == -signal.SIGSYS:
        return "opened a socket"
    if status in (-signal.SIGKILL, -signal.SIGXCPU):
        return f"took over {given.seconds:g} s, or over {SECONDS} s of the processor"
    if status == 2 and "\nError: " in err:
        return ""  # wrong usage: an argument names no file
    if status not in (0, 1):
        return f"ended with {status}: {err[-300:]}"
    if told:
        return told[:300]
    if "Traceback" in err + out:
        return f"traceback: {err[-1500:]}"
    errors = [line for line in err.splitlines() if line.startswith("error")]
    if status == 1 and not (errors and _ERROR.match(errors[0])):
        return f"no code: {err[:300]!r}"
    if _UNCLEAN.search(out + err):
        return f"unclean: {(out + err)[:300]!r}"
    if len(out + err) > PRINTED:
        return f"printed {len(out + err)} characters"
    if processor > SECONDS:
        return f"took {seconds:.1f} s, and {processor:.1f} s of the processor"
    return f"took {grown} MiB" if grown > MEBIBYTES else ""


def _text(world: World, name: str) -> str:
    return (world.root / name).read_bytes().decode("utf-8", "replace")


def _forked(world: World, given: Input, address: str | None) -> tuple[int, Any, int]:
    """Return status, use of resources, and KiB of memory at the beginning."""
    base = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 10
    child = os.fork()
    if child == 0:
        try:
            _child(world, given, address)
        finally:
            os._exit(99)
    late = time.monotonic() + given.seconds
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > late:
            os.killpg(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            break
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(status), usage, base


def _child(world: World, given: Input, address: str | None) -> NoReturn:
    """Run the command in this process, which it ends."""
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(world.root / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    (world.root / "told").write_bytes(b"")
    told = os.open(world.root / "told", os.O_WRONLY)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.environ |= {
        "MODPKG_HOME": str(world.home),
        "MODPKG_REGISTRY": address or str(world.registry),
        "TMPDIR": str(world.temporary),
        "HOME": str(world.home),
        "NO_COLOR": "1",
    }
    tempfile.tempdir = None
    sys.executable = os.environ.get(INTERPRETER, sys.executable)  # for what starts Python itself
    os.chdir(world.project)
    for place, value in given.bounds.items():
        module, _, name = place.rpartition(".")
        setattr(sys.modules[module], name, value)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS + 1, SECONDS + 2))
    limit = 16 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 30, 2 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _watch(world, told)
    if address is None:
        no_sockets(INTERNET)
    from modpkg.cli import main

    status = 0
    for command in given.commands:
        try:
            main(list(command))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 98
        except BaseException:
            traceback.print_exc()
            status = 97
        if status:
            break
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _watch(world: World, told: int) -> None:
    """Tell of every change of a file that is neither home's nor project's nor registry's."""
    allowed = tuple(
        f"{folder}{end}"
        for folder in (world.home, world.project, world.registry, world.temporary, "/dev", "/proc")
        for end in ("", "/")
    )
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def check(event: str, path: Any) -> None:
        if isinstance(path, int) or not path:
            return
        whole = Path(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 (links are followed below)
        full = f"{os.path.realpath(whole.parent)}/{whole.name}"
        if not full.startswith(allowed):
            os.write(told, f"{event} {full}\n".encode("utf-8", "replace"))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & writing:
                check(event, path)
        elif event in _WRITING:
            for path in arguments[:2] if event == "os.rename" else arguments[:1]:
                check(event, path)
        elif event == "subprocess.Popen" and arguments[0] != sys.executable:
            os.write(told, f"started {arguments[0]}\n".encode())

    sys.addaudithook(hook)


def main() -> None:
    """Run the inputs of a class, and write what came of them."""
    folder, chosen, report = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    world = World(folder)
    with open(folder / "out", "wb"), open(folder / "err", "wb"), open(folder / "told", "wb"):
        pass
    gc.freeze()
    heavy = "--heavy" in sys.argv
    outcomes = [
        run(world, given) for given in INPUTS if given.kind == chosen and (heavy or not given.heavy)
    ]
    report.write_text(json.dumps([outcome._asdict() for outcome in outcomes]))


if __name__ == "__main__":
    main()
