"""A hook of MkDocs: the site has the tree of the repository.

A page links to ``../registry_spec/manifest.md`` because that is where it is for everybody who reads
the page in the repository. So the site has all pages of the repository at their own paths,
README.md as its home page, and the files that they link to.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("docs", "registry_spec", "examples", "benchmarks/results")
_LINK = re.compile(r"\]\(([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the pages of docs/ by those of the repository, and what they link to."""
    kept = [file for file in files if not file.src_uri.endswith((".md", ".py", ".svg"))]
    pages = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
    for folder in FOLDERS:
        pages |= {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.md")}
    linked: set[str] = set()
    for page in pages:
        for link in _LINK.findall((ROOT / page).read_text(encoding="utf-8")):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
            if "://" not in link and (ROOT / path).is_file():
                linked.add(path)
    made = (
        File.generated(config, path, abs_src_path=str(ROOT / path))
        for path in sorted(pages | linked)
    )
    return Files([*kept, *made])
