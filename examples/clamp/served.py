"""The story of clamp, told again: four groups who meet at a registry that one of them serves.

    python examples/clamp/served.py [--work FOLDER] [--trained FOLDER] [--fewer] [--readme]

A real server, real accounts and real requests. It uses what community.py has trained in the same
folder, or trains it. --readme regenerates the page SERVED.md beside this script.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import founders
import update
from community import (
    HERE,
    WEIGHTS,
    app,
    described,
    head_of_manifest,
    minilm,
    promise,
    successor,
    trained,
    write_cases,
)
from safetensors.numpy import load_file, save_file
from story import Story, Untrue
from telling import begin_telling, true

PAGE = HERE / "SERVED.md"
PEOPLE = ("ada", "tim", "sue", "arc")
"""A film critic, a reader of tweets, somebody who works with scans, and an archivist."""
PASSWORDS = {name: f"{name} and a long sentence" for name in PEOPLE}
DOMAINS = ("films", "tweets")


def main() -> None:
    """Run the story."""
    story, shown = begin_telling(__doc__, "clamp-served")
    work = story.folder
    with served(work) as url:
        for act in (one, two, three, four, five):
            act(story, work, url)
    story.write_facts()
    if shown:
        PAGE.write_text("\n".join([INTRO, *story.page]).replace(url, URL) + "\n", "utf-8")


URL = "http://127.0.0.1:8420"
INTRO = """# clamp, told again with a server

Four groups meet at a registry that one of them [serves](../../docs/operating.md): a film critic,
a reader of tweets, somebody who works with scanned pages, and an archivist. Each has an account,
and a home of his own. This page was printed by `python examples/clamp/served.py --readme`; the
first telling is [README.md](README.md)."""


@contextmanager
def served(work: Path) -> Iterator[str]:
    """Serve a registry in a process while the story runs, and give its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    command = [sys.executable, "-m", "modpkg", "registry", "serve", "registry", "--port", str(port)]
    environment = os.environ | {"MODPKG_HOME": str(work / "homes" / "server")}
    with open(work / "server.log", "wb") as log:
        process = subprocess.Popen(
            [*command, "--name", "clamp"], cwd=work, env=environment, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                answer(f"{url}/healthz")
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise Untrue(f"the server does not answer: {(work / 'server.log').read_text()}")
        yield url
    finally:
        process.terminate()
        process.wait(60)


def answer(address: str, document: dict[str, str] | None = None) -> bytes:
    """Return what a server answers to a request without a token."""
    data = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answered:
        content: bytes = answered.read()
        return content


def one(story: Story, work: Path, url: str) -> None:
    story.act(
        "1. A registry for four groups",
        """The critic serves a registry. Each group makes an account on its page, and logs in from
        the command line. The critic founds an organisation, and releases clamp 1.0.0 in its
        name; whoever works with scans will review what others send.""",
    )
    for name in PEOPLE:
        answer(f"{url}/api/1/register", {"name": name, "password": PASSWORDS[name]})
        story.become(name, url)
        story.modpkg("login", url, "--name", name, typed=f"{PASSWORDS[name]}\n")
    story.become("ada", url)
    story.modpkg("organisation", "create", "critics")
    weights = trained(work, "clamp", lambda to: founders.found(minilm(), to))
    shutil.copytree(weights, work / "clamp")
    (work / "clamp" / "modpkg.toml").write_text(
        head_of_manifest("clamp", "1.0.0", "base", "What a short English text feels")
        + promise("films", 0.6)
        + promise("tweets", 0.25)
        + PROMISE,
        "utf-8",
    )
    write_cases(work / "clamp", DOMAINS)
    shutil.copyfile(work / "clamp/tests/films.jsonl", work / "clamp/tests/sides.jsonl")
    story.modpkg("test", at="clamp")
    story.modpkg("build", at="clamp")
    story.modpkg("publish", "--owner", "critics", at="clamp")
    story.modpkg("owner", "add", "clamp", "sue", "--role", "reviewer")
    story.become("sue", url)
    story.modpkg("owner", "accept", "clamp")
    story.become("tim", url)
    refused = story.modpkg("yank", "clamp==1.0.0", status=1)
    story.fact("not his", "M432", "M432" in refused, "Only those with a role change clamp.")


PROMISE = """
[[tests]]
name = "sides"
cases = "tests/sides.jsonl"
metric = "accuracy"
at_least = 0.35
tolerance = 0.15
"""
"""Whether good and bad are told apart at all, which a quarter of the texts is enough for."""


def two(story: Story, work: Path, url: str) -> None:
    story.act(
        "2. A candidate that fails its review",
        """The reader of tweets has fine-tuned clamp on tweets, with a script that numbers the
        labels the other way round. He does not see it, and submits the result. It lies beside
        clamp, for all to look at, and nobody gets it who has not asked for it.""",
    )
    story.become("tim", url)
    weights = trained(work, "tweets", lambda to: update.update(work / "clamp", "tweets", to))
    turned = work / "turned"
    shutil.copytree(weights, turned)
    tensors = load_file(turned / WEIGHTS[0])
    for name in tensors:
        if name.startswith("classifier."):
            tensors[name] = tensors[name][::-1].copy()
    save_file(tensors, turned / WEIGHTS[0], {"format": "pt"})
    successor(work, "clamp", "turned-clamp", "1.0.1", weights=turned)
    story.modpkg("build", at="turned-clamp")
    story.modpkg("submit", "--message", "Tweets", at="turned-clamp")
    story.become("sue", url)
    story.modpkg("candidates", "clamp")
    story.modpkg("vet", "clamp#1", "--report", status=1)
    vetting = story.ask("vet", "clamp#1")
    sides = next(one for one in vetting["changes"] if one["after"]["test"] == "sides")
    story.fact(
        "turned",
        sides["after"]["value"],
        not sides["after"]["passed"],
        f"Films: {described(sides)}.",
    )
    story.modpkg("comment", "clamp#1", "Good and bad have changed places.")
    story.modpkg("accept", "clamp#1", status=1)
    story.become("ada", url)
    refused = story.modpkg("accept", "clamp#1", status=1)
    story.fact(
        "refused", refused.split("[")[1][:4], True, "A report that fails is not passed over."
    )
    story.modpkg("reject", "clamp#1", "--reason", "Its labels are the other way round.")


def three(story: Story, work: Path, url: str) -> None:
    story.act(
        "3. The next one is accepted",
        """He turns the labels round, and submits again. The reviewer vets it, tries it, and
        approves; the critic accepts. What was reviewed is what is released, byte for byte.""",
    )
    story.become("tim", url)
    successor(work, "clamp", "clamp-1.0.1", "1.0.1", weights=work / "trained" / "tweets")
    story.modpkg("build", at="clamp-1.0.1")
    story.modpkg("submit", "--message", "Tweets, with the labels of clamp", at="clamp-1.0.1")
    story.become("sue", url)
    story.modpkg("vet", "clamp#2", "--report", status=0)
    moved = next(
        c for c in story.ask("vet", "clamp#2")["changes"] if c["after"]["test"] == "tweets"
    )
    story.fact(
        "tweets gained",
        moved["difference"]["value"],
        true(moved["difference"]["low"] > 0.1),
        f"Tweets: {described(moved)}.",
    )
    story.modpkg("install", "--candidate", "clamp#2")
    story.modpkg("approve", "clamp#2", "--message", "Vetted and tried.")
    story.become("ada", url)
    candidate = story.ask("candidates", "clamp#2")
    story.modpkg("accept", "clamp#2")
    line = json.loads(answer(f"{url}/index/clamp.jsonl").splitlines()[-1])
    story.fact(
        "released",
        line["version"],
        line["release"] in json.dumps(candidate),
        f"clamp {line['version']} is the release that was reviewed.",
    )


def four(story: Story, work: Path, url: str) -> None:
    story.act(
        "4. Everybody gets it",
        """An app of somebody without an account gets the new release by its next install.""",
    )
    story.become("nobody", url)
    app(work / "steady", "steady", ">=1,<2")
    story.modpkg("install", at="steady")
    got = {one["name"]: one["version"] for one in story.ask("list", at="steady")["modules"]}
    story.fact("steady", got["clamp"], got["clamp"] == "1.0.1", "The app has clamp 1.0.1.")


def five(story: Story, work: Path, url: str) -> None:
    story.act(
        "5. A fork",
        """The archive wants to know where a text comes from, and not what it feels: it forks clamp
        under a name of its own, which costs nothing until it differs.""",
    )
    story.become("arc", url)
    story.modpkg("fork", "clamp==1.0.1", "clamp-archive")
    story.modpkg("build", at="clamp-archive")
    sent = story.modpkg("publish", at="clamp-archive")
    story.fact("fork", sent.split("(")[-1], "kB new" in sent, "The fork shares all its weights.")
    events = json.loads(answer(f"{url}/api/1/events"))["events"]
    did: list[tuple[str, str]] = [(event["actor"], event["action"]) for event in events]
    story.fact("events", len(did), len(did) > 6, "Who did what is in the log, for all to read.")


if __name__ == "__main__":
    main()
