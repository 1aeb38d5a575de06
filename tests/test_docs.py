"""All pages: their commands are read by the parsers that users meet, their code names what there is and runs where it
can, their links lead somewhere. What a page says of its subject is tested beside this, page by page."""

import ast
import importlib
import inspect
import json
import re
import shlex
import tomllib

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from pages import CODE, PAGES, ROOT, anchors_of, blocks_of, commands_of, imports_of, links_of, name_of, prose_of
from scored_rows import picture
from tiny_models import tiny_llava
from trl.scripts.sft import make_parser

from c3l_hf.cli.dispatch import COMMANDS, all_options
from c3l_hf.cli.settings import read_settings
from c3l_hf.cli.signals import SignalOptions, check_signals
from c3l_hf.pipeline.curation_options import CurationOptions
from c3l_hf.pipeline.options import GenerationOptions

COMMAND_LINES = [command for page in PAGES for command in commands_of(page)]
# Recipes that `accelerate launch` starts → the command whose options they take.
RECIPES = {"recipes/c3l.py": "run", "recipes/sft.py": "sft"}
# Programs of others: their words are theirs.
OTHERS = ("cd", "export", "hf", ".venv/bin/pre-commit")


def own_test(page):
    """The test of one page, which gives its code what it needs."""
    return ROOT / "tests" / f"test_docs_{page.stem.replace('-', '_')}.py"


def runs_its_code(page):
    return own_test(page).is_file() and "exec(" in own_test(page).read_text()


# Commands


def check_c3l(words):
    if words in ([], ["--help"], ["--version"]):
        return
    names = [" ".join(words[:count]) for count in (2, 1) if " ".join(words[:count]) in COMMANDS]
    assert names, f"there is no command c3l {words[0]}"
    name, words = names[0], words[len(names[0].split()) :]
    if words == ["--help"] or words == ["--help_all"]:
        return
    command = importlib.import_module(f"c3l_hf.cli.{COMMANDS[name][1]}").COMMAND
    words = [getattr(command, "short", {}).get(word, word) for word in words]
    for group in read_settings(command, words, {}, lambda: ()).groups:
        if isinstance(group, CurationOptions):
            group.rules()
        elif isinstance(group, GenerationOptions):
            group.config(0)
        elif isinstance(group, SignalOptions):
            check_signals(group)


def check_accelerate(words):
    assert words[0] == "launch"
    started = launch_command_parser().parse_args(words[1:])
    if started.module:
        assert started.training_script == "c3l_hf"
        check_c3l(started.training_script_args)
    elif started.training_script in RECIPES:
        check_c3l([RECIPES[started.training_script], *started.training_script_args])


def check_launched(words):
    """Words for a script of recipes/launch, behind those that are for the script itself."""
    last = max(place for place, word in enumerate(words) if word == "--" or word.endswith(".sbatch"))
    check_c3l(["run", *words[last + 1 :]])


def check_make(words):
    targets = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    variables = re.findall(r"^([A-Z_]+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words:
        assert word.partition("=")[0] in variables if "=" in word else word in targets, word


def check_pip(words):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, extras in re.findall(r"^(c3l-hf|\.)(?:\[(.*)\])?$", "\n".join(words), re.MULTILINE):
        assert set(filter(None, extras.split(","))) <= set(project["optional-dependencies"]), name


def check_trl(words):
    assert words[0] == "sft"
    words = [*words[1:], "--use_cpu", "true", "--bf16", "false"]  # for a parser on a machine without accelerators
    *_, rest = make_parser().parse_args_and_config(words, return_remaining_strings=True)
    assert not rest, rest


def check_python(words):
    assert words[0] == "-m" or (ROOT / words[0]).is_file(), words[0]


CHECKS = {"c3l": check_c3l, "accelerate": check_accelerate, "make": check_make, "pip": check_pip, "trl": check_trl}
CHECKS |= {"sbatch": check_launched, "recipes/launch/ssh.sh": check_launched}
CHECKS |= {"python": check_python, "python3": check_python, ".venv/bin/python": check_python}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder in which the commands are read: a checkout, with what users have beside it."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    (folder / "my_pictures").mkdir()
    return folder


@pytest.mark.parametrize("command", COMMAND_LINES, ids=[command.place for command in COMMAND_LINES])
def test_a_command(command, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    program, *words = shlex.split(command.text, comments=True)
    for word in words:
        if word.startswith(("recipes/", "docs/", "tests/", "c3l_hf/")):
            assert (ROOT / word).exists(), word
    for folder in re.findall(r"--image_folder (\S+)", command.text):
        (checkout / folder).mkdir(exist_ok=True)
    if program not in OTHERS:
        assert program in CHECKS, f"no test can read {program}"
        CHECKS[program](words)


def test_commands_are_in_blocks():
    """Where they are read."""
    for page in PAGES:
        indented = re.findall(r"^ {4,}(?:c3l|accelerate|make|pip) .*$", prose_of(page), re.MULTILINE)
        assert not indented, f"{name_of(page)}: put into a block ```bash: {indented}"


def test_options_in_the_text_exist():
    others = {
        "num_processes",
        "num_machines",
        "machine_rank",
        "main_process_ip",
        "data_path",
    }  # of accelerate, of LLaVA
    known = {*all_options(), "config", "help", "help_all", "traceback", *others}
    for page in PAGES:
        named = re.findall(r"`--([a-z0-9]+(?:_[a-z0-9]+)*)(?=[ =`])", prose_of(page))
        assert set(named) <= known, f"{name_of(page)}: {set(named) - known}"


# Code


@pytest.mark.parametrize("block", CODE, ids=[block.place for block in CODE])
def test_code_names_what_there_is(block):
    names = dict(imports_of(block))
    for call in [node for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Call)]:
        *path, last = ast.unparse(call.func).split(".")
        called = names.get(last) if not path else getattr(names.get(path[0]), last, None) if len(path) == 1 else None
        if called is None or not callable(called):
            assert not path or path[0] not in names, f"there is no {ast.unparse(call.func)}"
            continue
        parameters = inspect.signature(called).parameters
        takes_any = any(one.kind == one.VAR_KEYWORD for one in parameters.values())
        for keyword in call.keywords:
            assert keyword.arg is None or takes_any or keyword.arg in parameters, f"{last} has no {keyword.arg}"


@pytest.fixture
def namespace(tmp_path, monkeypatch):
    """What the code of pages may take as given: a model with its processor, rows, and the same rows with scores."""
    from datasets import Dataset

    from c3l_hf import I2CScorer, score_dataset

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"image": picture(n), "question": f"What is {n}?", "answer": f"a {n}"} for n in range(4)]
    dataset = Dataset.from_list(rows)
    model, processor = tiny_llava()  # code may train it
    scored = score_dataset(dataset, I2CScorer(model, processor))
    return {"model": model, "processor": processor, "rows": dataset, "dataset": dataset, "scored": scored}


RUN = [page for page in PAGES if blocks_of(page, "python") and not runs_its_code(page)]


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_code_runs(page, namespace, capsys):
    """The blocks of a page one after the other; `py` is for what needs a network or a large model."""
    for block in blocks_of(page, "python"):
        exec(compile(block.text, block.place, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_data_can_be_read(page):
    for block in blocks_of(page, "yaml", "json"):
        read = yaml.safe_load if block.language == "yaml" else json.loads
        try:
            assert read(block.text) is not None
        except Exception as error:
            pytest.fail(f"{block.place}: {error}")


def test_every_block_has_a_language_that_is_tested():
    tested = {"bash", "python", "py", "yaml", "json", ""}  # without one it is what a program writes
    for page in PAGES:
        for block in blocks_of(page):
            assert block.language in tested, f"{block.place}: {block.language}"


# Links


@pytest.mark.parametrize(
    "page", [*PAGES, *(ROOT / "recipes").rglob("*.md"), ROOT / "c3l_hf/scenes/generator/README.md"], ids=name_of
)
def test_links_lead_somewhere(page):
    for target, anchor in links_of(page):
        file = (page.parent / target).resolve() if target else page
        assert file.exists() and file.is_relative_to(ROOT), f"{name_of(page)} links to {target}"
        if anchor:
            assert anchor in anchors_of(file), f"{name_of(page)} links to {target}#{anchor}"


def test_pages_are_on_the_first_page_and_in_the_navigation():
    names = {page.name for page in PAGES if page.parent.name == "docs"} - {"index.md"}
    linked = {target for target, _ in links_of(ROOT / "docs" / "index.md")}
    assert names <= linked, names - linked
    navigation = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2].partition("hooks:")[0]
    assert names <= set(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE))


def test_the_readme_is_short_and_begins_with_what_to_type():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    first = "\n".join(lines[:20])
    assert "pip install c3l-hf" in first and "--images my_pictures/" in first and "docs/images/report.png" in first


def test_pages_name_no_machine():
    for page in PAGES:
        found = re.findall(r"(?:/home|/root|/Users|/work|/tmp)/\S+", page.read_text())
        assert not found, f"{name_of(page)}: {found}"
