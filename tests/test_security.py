"""What the package never does, read from its sources; and what leaves a run: no key, no name that leads elsewhere."""

import ast
import json
import os
import re
import tarfile
from functools import cache
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value
from scored_rows import png

from c3l_hf.cli import main
from c3l_hf.data.streams import RowStream
from c3l_hf.publishing.conversion import convert
from c3l_hf.scoring.dataset import score_dataset
from c3l_hf.scoring.scorer import I2CScorer

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "c3l_hf").rglob("*.py"))
SCRIPTS = [*FILES, *sorted((ROOT / "recipes").rglob("*.py"))]
# Modules that run what is in a file.
UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE_CALLS = {
    *("eval", "exec", "__import__", "os.system", "os.popen", "os.execv", "os.spawnv"),
    *("yaml.unsafe_load", "yaml.full_load", "torch.jit.load"),
}
# Calls that are unsafe without an argument: call → argument, and the values that it may have.
WITH = {"torch.load": ("weights_only", ("True",)), "load_state_dict_from_url": ("weights_only", ("True",))}
# Where programs are started, and by what.
PROGRAMS = {"c3l_hf/generation/serving.py": "the user's own --serve, split by shlex and given without a shell"}
# Where templates are filled in without the sandbox, and whose they are.
OWN_TEMPLATES = {
    "c3l_hf/publishing/cards.py": "hub_cards/ of this package; what they print is escaped by `finalize`",
    "c3l_hf/report/page.py": "the page of this package; what it prints is escaped by autoescape",
}
# Where pictures are opened: `files/decoders.py`, which says how; and the artwork of the embedded world.
OPEN_PICTURES = {"c3l_hf/files/decoders.py", "c3l_hf/scenes/world.py"}
# Where weights are loaded that are of another form.
OWN_WEIGHTS = {
    "c3l_hf/scenes/smollm.py": "a language model as GGUF",
}
SECRET = "hf_tokenOfNobody0123456789abcdef"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def calls(path: Path) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in nodes(path) if isinstance(node, ast.Call)]


def classes(path: Path) -> dict[str, list[str]]:
    return {node.name: [*map(ast.unparse, node.bases)] for node in nodes(path) if isinstance(node, ast.ClassDef)}


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def imported(path: Path) -> set[str]:
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_nothing_runs_what_is_in_a_file_or_a_text():
    found = [f"{name_of(path)}: import {name}" for path in SCRIPTS for name in imported(path) & UNSAFE_MODULES]
    for path in SCRIPTS:
        for name, call in calls(path):
            words = keywords(call)
            unsafe = name in UNSAFE_CALLS or words.get("allow_pickle", "False") != "False"
            if name in WITH:
                unsafe |= words.get(WITH[name][0]) not in WITH[name][1]
            if name == "yaml.load":  # with one of ours, which are made of the safe one
                loaders = [words.get("Loader"), *(ast.unparse(argument) for argument in call.args[1:])]
                unsafe |= not {"_OneMapping", "_Loader", "yaml.SafeLoader"} & set(loaders)
            unsafe |= words.get("shell", "False") != "False"
            if unsafe:
                found.append(f"{name_of(path)}:{call.lineno}: {name}")
    assert not found


def test_loaders_of_yaml_are_the_safe_one():
    bases = {base for path in FILES for of_class in classes(path).values() for base in of_class}
    assert {base for base in bases if base.startswith("yaml.")} == {"yaml.SafeLoader"}


def test_where_programs_are_started():
    assert {name_of(path) for path in FILES if "subprocess" in imported(path)} == set(PROGRAMS)


def test_code_of_models_is_run_only_if_asked():
    """No default is true, and no call says so by itself."""
    for path in SCRIPTS:
        for node in nodes(path):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert ast.unparse(node.value) != "True", f"{name_of(path)}:{node.value.lineno}"
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "trust_remote_code":
                default = ast.unparse(node.value) if node.value else "False"
                assert default.startswith(("False", "field(default=False")), f"{name_of(path)}:{node.lineno}"
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.args, *node.args.kwonlyargs]
                defaults = [None] * (len(node.args.args) - len(node.args.defaults)) + list(node.args.defaults)
                for argument, default in zip(arguments, [*defaults, *node.args.kw_defaults]):
                    if argument.arg == "trust_remote_code" and default is not None:
                        assert ast.unparse(default) == "False", f"{name_of(path)}:{node.lineno}"
    yaml_files = sorted((ROOT / "recipes").rglob("*.yaml"))
    assert yaml_files and not [name_of(file) for file in yaml_files if "trust_remote_code: true" in file.read_text()]


def test_weights_are_safetensors():
    found = set()
    for path in FILES:
        for name, call in calls(path):
            if re.search(r"(AutoModel|ForConditionalGeneration|type\().*\.from_pretrained$", name):
                if keywords(call).get("use_safetensors") != "True":
                    found.add(name_of(path))
    assert found == set(OWN_WEIGHTS)


def test_templates_of_others_are_filled_in_by_the_sandbox():
    plain = {name_of(path) for path in FILES for name, _ in calls(path) if name.endswith("Environment")}
    assert plain == set(OWN_TEMPLATES)
    own = classes(ROOT / "c3l_hf" / "prompts" / "bounded_jinja.py")
    assert own["BoundedSandbox"] == ["ImmutableSandboxedEnvironment"]
    assert "autoescape=True" in (ROOT / "c3l_hf" / "report" / "page.py").read_text()


def test_pictures_are_opened_in_one_place():
    opened = {name_of(path) for path in FILES for name, _ in calls(path) if name.endswith("Image.open")}
    assert opened == OPEN_PICTURES


@pytest.mark.parametrize("to", ["llava", "sharegpt", "openai", "jsonl", "csv", "webdataset", "texts", "trl"])
def test_names_from_data_stay_in_the_output_folder(tmp_path, to):
    names = [
        "../../out.png",
        "/out.png",
        "..\\..\\out.png",
        "a/../../../out.png",
        "\0",
        ".",
        "..",
        "",
        "~/out.png",
        "a" * 400,
    ]
    rows = [
        {
            "image": {"bytes": png(number), "path": name},
            **dict.fromkeys(("image_id", "pair_id", "id", "type", "__key__"), name),
            **{"question": "What?", "answer": "That."},
        }
        for number, name in enumerate(names)
    ]
    features = Features({name: Image(decode=False) if name == "image" else Value("string") for name in rows[0]})
    (tmp_path / "a" / "b").mkdir(parents=True)
    output = tmp_path / "a" / "b" / "converted"
    result = convert(RowStream.of(Dataset.from_list(rows, features=features), 100), to, output)
    assert result.converted + result.left_out.total() == len(rows) and result.converted
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and all(path.is_relative_to(output) for path in written)
    for path in output.rglob("*.tar*"):
        with tarfile.open(path) as tar:
            assert not [member.name for member in tar if member.name.startswith("/") or ".." in member.name]


@pytest.fixture
def secrets(monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "C3L_API_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, SECRET)


def holding(folder: Path) -> list[str]:
    """The files that have the secret in them, as it is or as bytes of a compressed part."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if SECRET.encode() in path.read_bytes() or SECRET in path.name]


def test_no_key_is_in_a_run(tmp_path, secrets, capsys):
    """The keys of the environment: in no file, and in nothing that is said."""
    words = "--config scenes --num_images 2 --pairs_per_image 1 --stages generate score"
    assert main(["run", *words.split(), "--output_dir", str(tmp_path / "run")]) in (0, 1)
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html")]) == 0
    assert main(["push", str(tmp_path / "run"), "--hub_namespace", "user", "--license", "mit"]) == 1
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err and not holding(tmp_path)
    assert len(list(tmp_path.rglob("*"))) > 5


SERVED = "run --images scenes --model m/m --backend server --base_url".split()


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--config", "scenes", "--num_images", "3", "--hub_token", SECRET],
        ["run", "--config", "scenes", "--num_images", "3", "--hub_token", SECRET, "--dry_run"],
        [*SERVED, f"http://me:{SECRET}@h/v1"],
        [*SERVED, f"http://h/v1?key={SECRET}"],
        ["sft", "--model", "m/m", "--dataset", "gone.json", "--hub_token", SECRET],
    ],
)
def test_no_key_is_in_what_is_refused(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    main([*words, "--output_dir", "out"])
    said = capsys.readouterr()
    assert said.err and SECRET not in said.out + said.err and not holding(tmp_path)


def test_no_password_of_an_address_is_in_a_result(llava, tmp_path, capsys, monkeypatch):
    """A picture's address with a user, a password and a query: not in statuses, files beside, or what is said."""
    address = f"http://me:{SECRET}@127.0.0.1:9/a.png?token={SECRET}"
    dataset = Dataset.from_list([{"image": address, "question": "What?", "answer": "That."}])
    scored = score_dataset(dataset, I2CScorer(*llava), cache_dir=tmp_path / "scores")
    assert "is an address" in scored["i2c_status"][0] and SECRET not in scored["i2c_status"][0]
    assert not holding(tmp_path)
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err


def test_keys_are_no_settings(monkeypatch, secrets, capsys, tmp_path):
    """Settings are read from C3L_…: the key is none of them, and is not shown."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("C3L_TARGET_SIZE", "3")
    assert main(["curate", "--dataset", "rows.json", "--dry_run", "--output", "out.parquet"]) == 0
    shown = capsys.readouterr()
    assert "target_size: 3" in shown.out and SECRET not in shown.out + shown.err
    assert json.dumps(dict(os.environ)).count(SECRET) >= 5  # it was there to be shown
