"""The report's page: one HTML file that opens from disk and asks nobody for anything, or one with files beside it."""

import base64
import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from c3l_hf.common.errors import RunError
from c3l_hf.common.files import atomic_folder, atomic_write
from c3l_hf.data.status import remedy
from c3l_hf.report.content import Content
from c3l_hf.report.drawings import drawing
from c3l_hf.report.page_data import PageData, script_json, write_pieces
from c3l_hf.report.visible import visible

__all__ = ["MOST_BYTES", "MOST_PAIRS", "page_html", "write_page"]

# Up to these a report is one file; larger ones load their texts and pictures from files beside it.
MOST_PAIRS, MOST_BYTES = 5_000, 34_000_000

_FOLDER = Path(__file__).parent / "page"
# In the order in which they are read: the later ones use the earlier ones.
_SCRIPTS = ("data", "texts", "pairs", "list", "filters", "scores", "marks", "report")
_OURS = re.compile(r"(columns|texts|pictures)-\d+\.js")


def page_html(content: Content) -> str:
    """A report as the text of one HTML page, whatever its size: for a notebook.

    Raises:
        ValueError: If the content contradicts itself; see `write_page`.
    """
    with tempfile.TemporaryDirectory() as folder:
        return "".join(_rendered(content, write_pieces(content, Path(folder)), None))


def write_page(content: Content, path: Path) -> list[Path]:
    """Write a report as an HTML file.

    Up to `MOST_PAIRS` pairs, and `MOST_BYTES` bytes, all is in it. A larger report has its texts and pictures in the
    folder `<name>_files` beside the file, in files that the page loads when it needs them; the two go together.

    Args:
        content: What is to be shown; its texts may be anything.
        path: The file; one of this name is replaced.

    Returns:
        What was written: the file, and then those beside it.

    Raises:
        RunError: If the folder for the files beside it has other files in it.
        ValueError: If two pairs have the same key, a pair's picture is not among the pictures, an answer has not as
            many numbers as tokens, two charts have the same id, or a drawing is not one as `Chart` has it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.stem}_files")
    _check_folder(beside)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        data = write_pieces(content, Path(folder))
        large = data.head["count"] > MOST_PAIRS or data.size > MOST_BYTES
        written = _write_beside(data, beside) if large else []
        with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(_rendered(content, data, beside.name if large else None))
    if not large and (beside / "columns-0.js").is_file():  # of a larger report that had this name
        for left in beside.iterdir():
            left.unlink()
        beside.rmdir()
    return [path, *written]


def _check_folder(folder: Path) -> None:
    """Refuse to replace what somebody else has put there: a browser saves pages into folders of such names."""
    there = list(folder.iterdir()) if folder.is_dir() else []
    others = [file.name for file in there if not (_OURS.fullmatch(file.name) and file.is_file())]
    # Through a link files of another place would be removed.
    if others or folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        found = f", with {min(others)!r} in it" if others else ""
        raise RunError(f"{folder} is there already{found}, and no report made it; give the report another name")


def _write_beside(data: PageData, folder: Path) -> list[Path]:
    with atomic_folder(folder) as partial:
        for piece in data.pieces:
            # A script, for no other kind of file can be read by a page that was opened from disk.
            text = f'c3lPiece("{data.head["id"]}","{piece.name}",{piece.path.read_text("utf-8")});\n'
            (partial / f"{piece.name}.js").write_text(text, "utf-8")
    return [folder / f"{piece.name}.js" for piece in data.pieces]


def _rendered(content: Content, data: PageData, beside: str | None) -> Iterator[str]:
    """The page's text in parts."""
    script, style = _joined(".js", _SCRIPTS), _joined(".css", ("report", "gallery"))
    ids = [chart.id for chart in content.charts]
    if len(set(ids)) < len(ids):
        raise ValueError(f"two charts have the same id: {', '.join(ids)}")
    drawings = [drawing(chart) for chart in content.charts]
    scripts = [_hash(script), *(["'self'", "file:"] if beside else [])]
    policy = {
        "default-src": ["'none'"],
        "script-src": scripts,
        "style-src-elem": [_hash(style)],
        # Drawings have their lines and fills in attributes, which cannot ask for anything: there is nobody to ask.
        "style-src-attr": ["'unsafe-inline'"],
        "img-src": ["data:", "blob:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        # Texts cannot become markup, not even by a mistake in the script.
        "require-trusted-types-for": ["'script'"],
        "trusted-types": ["c3l"],
    }
    # What is said of all pictures already is not counted once more.
    unreadable = {
        f"{reason}{remedy(reason)}": count
        for reason, count in data.unreadable.items()
        if not any(reason in told for told in content.notes)
    }
    values: dict[str, Any] = {
        "content": content,
        "unreadable": unreadable,
        "policy": "; ".join(f"{name} {' '.join(sources)}" for name, sources in policy.items()),
        "style": Markup(style),
        "script": Markup(script),
        "head": Markup(script_json({**data.head, "beside": beside})),
        "drawings": list(map(Markup, drawings)),
        "pieces": () if beside else ((piece.name, Markup(piece.path.read_text("utf-8"))) for piece in data.pieces),
        "count": data.head["count"],
        "beside": beside,
    }
    return _environment().get_template("report.html").generate(values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _joined(ending: str, names: Sequence[str]) -> str:
    return "\n".join((_FOLDER / f"{name}{ending}").read_text("utf-8") for name in names)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
