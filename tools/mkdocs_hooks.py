"""Documents that live outside docs/ as pages of the site: the README is its home, the ops' and kernels' READMEs follow.

Links are written as they work in the repository; here they are turned to the pages that the files become, and links
to files that become none to plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def outside() -> dict[str, str]:
    """Path in the repository -> page of the site."""
    found = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md",
             "csrc/README.md": "csrc.md"}  # fmt: skip
    for path in sorted((ROOT / "fastunlearn").rglob("README.md")):
        name = path.relative_to(ROOT).as_posix()
        found[name] = "internals/" + name.removeprefix("fastunlearn/").removesuffix("/README.md") + ".md"
    return found


PAGES = outside()
SOURCES = {page: source for source, page in PAGES.items()}


def turned(text: str, source: str, page: str) -> str:
    """The Markdown of ``source`` (a path in the repository) with the links that ``page`` needs."""

    def link(match: re.Match) -> str:
        image, words, target, anchor = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match.group()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        goal = path.removeprefix("docs/") if path.startswith("docs/") else PAGES.get(path)
        if goal is None:
            return words
        relative = posixpath.relpath(goal, posixpath.dirname(page) or ".")
        return f"{image}[{words}]({relative}{anchor or ''})"

    return LINK.sub(link, text)


def on_files(files: Files, config) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    name = page.file.src_uri
    return turned(markdown, SOURCES.get(name, f"docs/{name}"), name)
