"""From nothing to a registry with a page: how long it takes, and whether people can use it.

usage: python -m benchmarks.first_page [--rounds N]

In a fresh environment with `modpkg[server]` alone, `modpkg registry serve` is started N times, each
time on a folder that is not there: seconds from the start of the process to the front page. Then
somebody makes an account, logs in and publishes the modules of `make demo` over HTTP; another home
installs one of them, and Chromium looks at its page. Writes a section of
benchmarks/results/server.md. Ends with status 1 if the front page takes 5 s or more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import described
from benchmarks.server import write_section
from tests.e2e.environments import fresh_environment
from tests.registry.places.store import ROOT, free_port
from tests.server.browser import headless_browser

MOST_SECONDS = 5
PATIENCE = 60
PASSWORD = "correct horse battery staple"
MODULE = "summarizer"


def own_environment(home: Path) -> dict[str, str]:
    """Return the variables of somebody with a home of his own, who imports what is installed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MODPKG_", "PYTHON"))}
    return kept | {"MODPKG_HOME": str(home), "HF_HUB_OFFLINE": "1"}


@contextmanager
def started(modpkg: Path, work: Path, number: int) -> Iterator[tuple[str, float]]:
    """Serve a new registry; give its address, and the seconds until its front page was there."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [modpkg, "registry", "serve", f"registry-{number}", "--port", str(port)]
    with (work / f"server-{number}.txt").open("wb") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [*map(str, command), "--name", "fresh"],
            cwd=work,
            env=own_environment(work / "homes" / "server"),
            stdout=output,
            stderr=output,
        )
        try:
            while not is_there(url):
                if process.poll() is not None or time.perf_counter() - begun > PATIENCE:
                    raise SystemExit(f"It did not start: see {output.name}")
                time.sleep(0.01)
            yield url, time.perf_counter() - begun
        finally:
            process.terminate()
            process.wait(PATIENCE)


def is_there(url: str) -> bool:
    """Return whether the front page is answered."""
    try:
        with urllib.request.urlopen(f"{url}/", timeout=PATIENCE) as answer:
            return bool(answer.status == 200 and b"</html>" in answer.read())
    except OSError:
        return False


def used(modpkg: Path, work: Path, registry: Path, url: str) -> dict[str, str]:
    """Publish to a server, install from it, and look at it; return what happened."""
    ada, bob = own_environment(work / "homes" / "ada"), own_environment(work / "homes" / "bob")
    admin = [str(modpkg), "registry", "admin", "ada", str(registry), "--password-stdin"]
    own = own_environment(work / "homes" / "server")
    subprocess.run(admin, input=f"{PASSWORD}\n", env=own, text=True, check=True)
    checkout = [sys.executable, "-m", "modpkg"]

    def run(*arguments: str, env: dict[str, str], typed: str = "") -> str:
        done = subprocess.run(
            [*checkout, *arguments],
            input=typed,
            env=env | {"PYTHONPATH": str(ROOT)},
            cwd=work,
            text=True,
            check=True,
            stdout=subprocess.PIPE,
        )
        return done.stdout

    run("login", url, "--name", "ada", env=ada, typed=f"{PASSWORD}\n")
    begun = time.perf_counter()
    build = [sys.executable, str(ROOT / "examples" / "build_registry.py"), "--registry", url]
    subprocess.run(
        [*build, "--work", str(work / "projects")],
        env=ada | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    published = time.perf_counter() - begun
    begun = time.perf_counter()
    run("install", f"{MODULE}>=2.1", "--registry", url, env=bob)
    installed = time.perf_counter() - begun
    listed = json.loads(run("list", "--json", env=bob))["modules"]
    version = next(one["version"] for one in listed if one["name"] == MODULE)
    with headless_browser() as browser:
        browser.open(f"{url}/modules/{MODULE}")
        title = browser.run("document.querySelector('h1').innerText")
        complaints = browser.complaints
    if MODULE not in title or version not in title or complaints:
        raise SystemExit(f"The browser sees {title!r}, with {complaints}")
    modules = len(list((registry / "index").glob("*.jsonl")))
    return {
        f"publishing the {modules} modules of the demo, building them too": f"{published:.0f} s",
        f"another home installs {MODULE} {version}": f"{installed:.0f} s",
        "what Chromium shows as the title of its page": " ".join(title.split()),
    }


def main() -> int:
    """Measure, use, write the section; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="modpkg-first-") as text:
        work = Path(text)
        modpkg = fresh_environment(work / "venv", f"{ROOT}[server]") / "modpkg"
        taken = []
        for number in range(options.rounds):
            with started(modpkg, work, number) as (url, seconds):
                taken.append(seconds)
                if number == options.rounds - 1:
                    rows = used(modpkg, work, work / f"registry-{number}", url)
    median = statistics.median(taken)
    rows = {
        "start to front page, the first time in the environment": f"{taken[0]:.2f} s",
        f"start to front page, median of {options.rounds}": f"{median:.2f} s",
    } | rows
    section = "\n".join(
        [
            "## From nothing to a page",
            "",
            f"{described()}. `python -m benchmarks.first_page`: `modpkg registry serve` in a fresh "
            "environment with `modpkg[server]` alone, each time on a folder that is not there.",
            "",
            "| | |",
            "|---|--:|",
            *(f"| {what} | {value} |" for what, value in rows.items()),
        ]
    )
    write_section(section)
    print(section)
    return int(median >= MOST_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
