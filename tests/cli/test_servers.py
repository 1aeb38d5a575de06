"""`c3l generate` and `c3l run` with servers: one that runs, and those that are started for a stage."""

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from openai_server import OpenAIServer, completions, error
from PIL import Image

from c3l_hf.cli import main
from c3l_hf.publishing.hub import verify

ROOT = Path(__file__).parents[2]
KEY = "sk-not-for-anybody"
GERMAN = """
language: de
templates:
  - id: gespräch
    type: conversation
    turns: 3
    system: Du beschreibst nur, was zu sehen ist.
    user: |
      Schreibe {{ turns }} Fragen zu diesem Bild{% if caption %} ({{ caption }}){% endif %}, jede mit ihrer Antwort:
      Frage: ...
      Antwort: ...
    reply: {question: Frage, answer: Antwort}
"""
TALK = """<think>Frage: nein</think>Frage: Was liegt auf dem Tisch?
Antwort: Auf dem Tisch liegt ein rotes Buch, Nummer {0}.
Frage: Wer sitzt daran?
Antwort: Daran sitzt eine ältere Frau mit einer Brille.
Frage: Was trinkt sie?
Antwort: Sie trinkt eine Tasse Tee."""


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("C3L_API_KEY", KEY)


@pytest.fixture
def photographs(tmp_path):
    """A folder as people have them: of several kinds, one broken, with captions of some."""
    folder = tmp_path / "Meine Bilder"
    folder.mkdir()
    for number, name in enumerate(("küche.jpg", "garten.PNG", "see.webp")):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "kaputt.jpg").write_bytes(b"\xff\xd8\xff" + bytes(50))
    (folder / "metadata.csv").write_text("file_name,caption\nküche.jpg,in der Küche\n")
    return folder


def generate(tmp_path, photographs, server, *words):
    (tmp_path / "mine.yaml").write_text(GERMAN)
    output = tmp_path / "pairs.parquet"
    command = f"--images_split train --templates {tmp_path}/mine.yaml --backend server --base_url {server.url}"
    options = f"--output {output} --overwrite --pairs_per_image 2 --server_retries 0 --types conversation"
    return main(["generate", "--images", str(photographs), *shlex.split(command), *shlex.split(options), *words])


def talks(body):
    numbers = range(body.get("n", 1))
    return completions([TALK.format(n) for n in numbers], model="big-vlm", usage={"prompt_tokens": 7})


def test_own_photographs_with_an_own_template(tmp_path, photographs, capfd):
    with OpenAIServer(talks, ["big-vlm"]) as server:
        assert generate(tmp_path, photographs, server, "--prompt_price", "2", "--completion_price", "4") == 0
        asked = [body for path, _, body in server.requests if path.endswith("/chat/completions")]
        assert {headers["Authorization"] for _, headers, _ in server.requests} == {f"Bearer {KEY}"}
        # The same again sends nothing.
        assert generate(tmp_path, photographs, server) == 0
        assert len([path for path, *_ in server.requests if path.endswith("/chat/completions")]) == len(asked) == 3
    rows = load_dataset("parquet", data_files=str(tmp_path / "pairs.parquet"), split="train").to_list()
    assert [row["image_id"] for row in rows] == [
        name for name in ("garten.PNG", "kaputt.jpg", "küche.jpg", "see.webp") for _ in range(2)
    ]
    for row in rows:
        if row["image_id"] == "kaputt.jpg":
            assert row["generation_status"].startswith("the image cannot be read") and row["prompt"] is None
            continue
        assert row["generation_status"] == "ok" and row["language"] == "de" and row["type"] == "conversation"
        assert row["prompt"][0]["content"] == "Was liegt auf dem Tisch?"
        assert [message["role"] for message in row["completion"]] == ["assistant", "user"] * 2 + ["assistant"]
        assert row["usage"]["served_model"] == "big-vlm"
        assert row["generation_prompt"][0] == {"role": "system", "content": "Du beschreibst nur, was zu sehen ist."}
        assert ("in der Küche" in row["generation_prompt"][1]["content"]) == (row["image_id"] == "küche.jpg")
    for body in asked:
        system, user = body["messages"]
        assert system["role"] == "system" and body["n"] == 2
        (picture,) = [item for item in user["content"] if item["type"] == "image_url"]
        assert picture["image_url"]["url"].startswith("data:image/")
    printed = capfd.readouterr()
    assert "cost, by the prices given" in printed.out and "ok" in printed.out
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file
    assert KEY not in printed.out + printed.err


def test_an_edited_caption_is_asked_with(tmp_path, photographs):
    """What was written with the old one is not shown again."""
    with OpenAIServer(talks, ["big-vlm"]) as server:
        assert generate(tmp_path, photographs, server) == 0
        (photographs / "metadata.csv").write_text("file_name,caption\nküche.jpg,im Bad\n")
        assert generate(tmp_path, photographs, server) == 0
    rows = load_dataset("parquet", data_files=str(tmp_path / "pairs.parquet"), split="train").to_list()
    (asked,) = {row["generation_prompt"][1]["content"] for row in rows if row["image_id"] == "küche.jpg"}
    assert "im Bad" in asked


def test_an_interruption_costs_no_reply_twice(tmp_path, photographs, capfd):
    done = []

    def fails_later(body):
        done.append(json.dumps(body["messages"]))
        return talks(body) if len(done) < 2 else error(401, f"the key {KEY} has expired")

    with OpenAIServer(fails_later, ["big-vlm"]) as server:
        assert generate(tmp_path, photographs, server, "--server_concurrency", "1") != 0
    assert not (tmp_path / "pairs.parquet").exists()
    assert KEY not in "".join(capfd.readouterr())
    with OpenAIServer(talks, ["big-vlm"]) as other:
        assert generate(tmp_path, photographs, other) == 0
        asked = [json.dumps(body["messages"]) for path, _, body in other.requests if path.endswith("completions")]
    assert len(asked) == 2 and done[0] not in asked and len({done[0], *asked}) == 3
    rows = load_dataset("parquet", data_files=str(tmp_path / "pairs.parquet"), split="train")
    assert sum(status == "ok" for status in rows["generation_status"]) == 6


def test_what_no_server_answered_is_asked_again(tmp_path, photographs, caplog):
    done = []

    def fails_once(body):
        done.append(body)
        return error(500, "out of memory") if len(done) == 2 else talks(body)

    with OpenAIServer(fails_once, ["big-vlm"]) as server:
        assert generate(tmp_path, photographs, server, "--server_concurrency", "1") == 0
        first = load_dataset("parquet", data_files=str(tmp_path / "pairs.parquet"), split="train")
        assert first["generation_status"][:].count("the server answered HTTP 500") == 2 and len(done) == 3
        assert "of an earlier call" not in caplog.text
        for _ in range(2):
            assert generate(tmp_path, photographs, server) == 0
            assert len(done) == 4 and done[3]["messages"] == done[1]["messages"]
    for there in (
        "1 of 2",
        "2 of 2",
    ):  # first without the shard whose replies were missing
        assert caplog.text.count(f"{there} shards are those of an earlier call") == 1
    rows = load_dataset("parquet", data_files=str(tmp_path / "pairs.parquet"), split="train")
    assert rows["generation_status"][:].count("ok") == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--served_model", "other"], "has no model 'other'; it lists big-vlm"),
        (["--model", "scenes"], "model is not used: the server at base_url has the generator"),
        (["--templates", "none.yaml"], "none.yaml"),
        (["--types", "where"], "no template of type 'where'"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, photographs, capfd, words, message):
    with OpenAIServer(talks, ["big-vlm"]) as server:
        assert generate(tmp_path, photographs, server, *words) != 0
        assert not any(path.endswith("completions") and body.get("n") for path, _, body in server.requests)
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error


SERVER = """
import hashlib, json, sys
from http.server import ThreadingHTTPServer
sys.path.insert(0, {folder!r})
from openai_server import OpenAIServer, _Handler, completions
port, model, started = sys.argv[1:]
with open(started, "a") as file:
    print(model, file=file)
def answer(body):
    texts = []
    for number in range(body.get("n", 1)):
        seed = int(hashlib.sha256(f"{{body.get('seed')}} {{number}}".encode()).hexdigest(), 16)
        thing, other = ("cat", "dog", "tree", "boat")[seed % 4], ("red", "blue", "green")[seed // 4 % 3]
        texts.append(f"Question: Which colour has the {{thing}}?\\nAnswer: The {{thing}} is {{other}}.\\n"
                     f"Question: Is there a {{thing}}?\\nAnswer: Yes, a {{other}} one.")
    return completions(texts, model=model, usage={{"prompt_tokens": 5, "completion_tokens": 3}})
owner = OpenAIServer(answer, models=[model])
server = ThreadingHTTPServer(("127.0.0.1", int(port)), _Handler)
server.owner = owner
server.serve_forever()
"""
TALKS = """
language: en
templates:
  - {id: talk, type: talk, turns: 2, user: "Write two questions about this picture, each with its answer."}
"""


def test_a_whole_run_serves_each_of_its_generators(tmp_path, capfd):
    """Conversations through every stage; the trained generator is served in the place of the first."""
    (tmp_path / "server.py").write_text(SERVER.format(folder=str(ROOT / "recipes" / "crosscheck")))
    (tmp_path / "talks.yaml").write_text(TALKS)
    folder, started = tmp_path / "run", tmp_path / "started"
    serve = shlex.join([sys.executable, str(tmp_path / "server.py"), "{port}", "{model}", str(started)])
    words = ["run", "--config", "scenes", "--num_images", "6", "--max_steps", "1", "--warmup_steps", "0"]
    words += ["--output_dir", str(folder), "--backend", "server", "--serve", serve]
    words += ["--templates", str(tmp_path / "talks.yaml"), "--license", "apache-2.0", "--target_size", "4"]
    assert main(words) == 0, capfd.readouterr().err
    first, second = started.read_text().split()
    assert first.endswith("generator") and Path(second) == folder / "stages" / "4_train" / "generator"
    pairs = Dataset.from_parquet(str(folder / "dataset" / "data" / "*.parquet"), cache_dir=str(tmp_path / "c"))
    assert len(pairs) == 4 and set(pairs["type"]) == {"talk"} and set(pairs["language"]) == {"en"}
    assert all(
        [len(row) for row in (turns, said)] == [2, 3] for turns, said in zip(pairs["turns"], pairs["completion"])
    )
    assert {usage["served_model"] for usage in pairs["usage"]} == {"generator"}
    labels = load_dataset(str(folder / "dataset"), "pseudo_labels", split="train", cache_dir=str(tmp_path / "c"))
    assert labels["prompt"][0][0]["content"].startswith("Write two questions")
    assert labels["chosen"][0][0]["content"].count("Question: ") == 2
    assert not (folder / "replies").exists()
    assert verify(str(folder / "dataset"))
    # The same again makes nothing, and starts nothing.
    assert main(words) == 0 and len(started.read_text().split()) == 2
