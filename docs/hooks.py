"""Links that leave `docs/`: what they point at becomes part of the site, so that pages also work as plain files."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Where the site has the files that are not in docs/, by their places in the repository.
OUTSIDE = "repository"
_LINK = re.compile(r"\[(?P<text>[^\]\n]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
# Two intervals beside each other: for mkdocstrings a reference.
_INTERVALS = re.compile(r"(?<=\d\]) \[(?=[-+−\d])")
_CODE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds every file of the repository that a page links to, and those that these link to."""
    waiting = [DOCS / file.src_uri for file in files.documentation_pages()]
    known = {file.src_uri for file in files}
    while waiting:
        page = waiting.pop()
        for target in _targets(page):
            place = _place(target)
            if place in known or not target.is_file() or target.is_relative_to(DOCS):
                continue
            known.add(place)
            files.append(File.generated(config, place, abs_src_path=str(target)))
            if target.suffix == ".md":
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links that leave `docs/`, or come from outside of it, into links within the site."""
    inside = not page.file.src_uri.startswith(f"{OUTSIDE}/")
    here = (DOCS if inside else ROOT) / page.file.src_uri.removeprefix(f"{OUTSIDE}/")

    def link(found: re.Match) -> str:
        target = _resolved(here, found["target"])
        if target is None or (inside and target.is_relative_to(DOCS)):
            return found[0]
        if target.is_dir():  # which a site does not list
            return found["text"]
        place = os.path.relpath(_place(target), Path(page.file.src_uri).parent)
        return f"[{found['text']}]({place}{found['anchor'] or ''})"

    parts = _CODE.split(_INTERVALS.sub(r" \[", markdown))
    return "".join(part if number % 2 else _LINK.sub(link, part) for number, part in enumerate(parts))


def _targets(page: Path) -> Iterator[Path]:
    for found in _LINK.finditer(_CODE.sub("", page.read_text("utf-8"))):
        target = _resolved(page, found["target"])
        if target is not None:
            yield target


def _resolved(page: Path, target: str) -> Path | None:
    """The file that a page's relative link means; of a folder its README, if it has one. None of addresses."""
    if "://" in target or target.startswith(("/", "mailto:")):
        return None
    path = (page.parent / target).resolve()
    return readme if (readme := path / "README.md").is_file() else path


def _place(target: Path) -> str:
    """The name within the site of a file of the repository."""
    return (
        target.relative_to(DOCS).as_posix()
        if target.is_relative_to(DOCS)
        else f"{OUTSIDE}/{os.path.relpath(target, ROOT)}"
    )
