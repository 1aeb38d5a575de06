"""The house: rooms in the order of the data's way, imports that point one way, and what is loaded when."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "c3l_hf"
# A room may import itself and the rooms before it. Scenes come last but for what calls them: nothing imports them.
ROOMS = (
    "common",
    "files",
    "data",
    "models",
    "prompts",
    "generation",
    "scoring",
    "selection",
    "training",
    "finetuning",
    "metrics",
    "evaluation",
    "publishing",
    "report",
    "pipeline",
    "cli",
)
# May be imported by every room: private parts of other packages.
SHARED = ("_compat",)
# The one door: see its docstring.
DOOR = "data/worlds.py"


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] if len(parts) > 1 else ""


def imports(path: Path, everywhere: bool = True):
    """The modules of the package that a file imports, with the number of the line; also those within functions."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "c3l_hf")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports within the package are absolute"
            if (node.module or "").split(".")[0] == "c3l_hf":
                inner = node.module.split(".")[1:]
                if inner:
                    yield node.lineno, node.module
                else:
                    yield from ((node.lineno, f"c3l_hf.{alias.name}") for alias in node.names)


def test_every_file_is_in_a_room():
    flat = {path.name for path in PACKAGE.glob("*.py")}
    assert flat == {"__init__.py", "__main__.py", "_compat.py"}
    assert {room_of(path) for path in modules()} == {"", "scenes", *ROOMS}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    allowed = {*ROOMS[: ROOMS.index(room) + 1], *SHARED}
    wrong = []
    for path in modules():
        if room_of(path) != room:
            continue
        for line, name in imports(path):
            parts = name.split(".")
            if len(parts) > 1 and parts[1] not in allowed and parts[1] != "__version__":
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_nothing_but_the_door_knows_of_scenes():
    named = [
        str(path.relative_to(PACKAGE))
        for path in modules()
        if room_of(path) != "scenes" and "c3l_hf.scenes" in path.read_text()
    ]
    assert named == [DOOR]


def test_scenes_do_not_import_what_calls_them():
    wrong = [
        (path.name, name)
        for path in modules()
        if room_of(path) == "scenes"
        for _, name in imports(path)
        if name.split(".")[1] in ("pipeline", "cli")
    ]
    assert not wrong


def test_no_module_imports_itself_in_a_circle():
    graph = {}
    for path in modules():
        name = "c3l_hf." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = {target for _, target in imports(path, everywhere=False)}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join([*trail, name])
        if name in graph and name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_nothing_outside_the_tests_imports_from_them():
    names = {path.stem for path in (ROOT / "tests").rglob("*.py")}
    wrong = []
    for path in [*modules(), *(ROOT / "recipes").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            targets = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            targets += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wrong += [
                f"{path.name} imports {target}" for target in targets if target.split(".")[0] in names - {"__init__"}
            ]
    assert not wrong


def test_tests_mirror_the_rooms():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders - {"helpers", "recipes", "fuzz"} <= {*ROOMS, "scenes"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("c3l_hf", ("torch", "transformers", "trl", "datasets")),
        ("c3l_hf.publishing.verify", ("torch", "transformers", "trl", "peft", "c3l_hf.training.trainer")),
        ("c3l_hf.publishing.cards", ("torch", "transformers", "trl", "peft", "c3l_hf.training.trainer")),
        ("c3l_hf.cli", ("torch", "transformers", "trl", "datasets")),
        ("c3l_hf.scoring.scorer", ("trl", "c3l_hf.training.trainer", "c3l_hf.scenes")),
    ],
)
def test_what_is_not_loaded(module, absent):
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_no_file_is_a_second_house():
    """A long file has a second job, or a good reason, which stands here."""
    reasons = {
        "training/trainer.py": "one class, which is TRL's and overrides its methods",
        "models/encoding.py": "every difference between model families is in one place",
    }
    long = {
        str(path.relative_to(PACKAGE)): len(path.read_text().splitlines())
        for path in modules()
        if len(path.read_text().splitlines()) > 400
    }
    assert not long.keys() - reasons.keys(), long


def test_the_list_of_files_is_that_of_the_tree():
    """`docs/files.md` names every module once, where it is."""
    sections = re.split(r"^## (\S+)/$", (ROOT / "docs" / "files.md").read_text(), flags=re.MULTILINE)[1:]
    listed = dict(zip(sections[::2], sections[1::2]))
    assert list(listed) == [*(f"c3l_hf/{room}" for room in (*ROOMS, "scenes")), "recipes"]
    for folder, text in listed.items():
        files = {path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob("*.py")}
        names = re.findall(r"^\| `(\S+)` \|", text, re.MULTILINE)
        assert sorted(names) == sorted(name for name in files if not name.endswith("__init__.py")), folder


def test_the_list_of_files_has_their_first_lines():
    """By which a stranger finds what to change."""
    text = (ROOT / "docs" / "files.md").read_text()
    for path in [*modules(), *(ROOT / "recipes").rglob("*.py")]:
        if room_of(path) if path.is_relative_to(PACKAGE) else path.name != "__init__.py":
            docstring = ast.get_docstring(ast.parse(path.read_text()))
            assert docstring, path
            first = " ".join(docstring.split("\n\n")[0].split()).replace("|", "/")
            assert first in text, f"docs/files.md has not the first line of {path.relative_to(ROOT)}: {first}"


def test_the_page_on_the_house_names_the_files_of_each_room():
    page = (ROOT / "docs" / "how-it-is-built.md").read_text()
    table = page.partition("<!-- files -->")[2].partition("<!-- end -->")[0]
    rows = re.findall(r"^\| `(\w+)/` \| (.+) \|$", table, re.MULTILINE)
    assert [room for room, _ in rows] == [*ROOMS, "scenes"]
    for room, names in rows:
        files = {path.relative_to(PACKAGE / room).parts[0] for path in (PACKAGE / room).rglob("*.py")}
        assert names.split(", ") == sorted(name.removesuffix(".py") for name in files - {"__init__.py"}), room
