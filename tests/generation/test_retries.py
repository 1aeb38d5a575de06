"""Images that are asked about again: which, how often, with draws of their own, whoever writes."""

import io
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Image, Value
from openai_server import OpenAIServer, completions

from c3l_hf.data.schema import PAIR_TABLE_FEATURES
from c3l_hf.generation.pairs import PairGenerationConfig, generate_tables
from c3l_hf.generation.requests import Reply, uniforms_of
from c3l_hf.generation.retries import Retries, count_attempts, generate_with_retries
from c3l_hf.generation.server import ServerOptions, ServerWriter

CONFIG = PairGenerationConfig("scenes", pairs_per_image=2, types_per_image=2, seed=3)
NAMES = ["good", "later", "never", "empty", "torn"]


def images(names=NAMES):
    content = [None if name == "empty" else {"bytes": name.encode(), "path": None} for name in names]
    features = Features({"image": Image(), "image_id": Value("string")})
    return Dataset.from_dict({"image": content, "image_id": list(names)}, features=features)


class Writer:
    """Replies with the numbers of image and reply."""

    def __init__(self):
        self.requests = []

    def __call__(self, requests):
        for request in requests:
            self.requests.append(request)
            replies = [f"Question: What is {k} in {request.image_id}? Answer: It is {k}." for k in request.ks]
            yield request, [Reply("" if request.image_id == "torn" else text) for text in replies]


def pmi_of(image, k):
    """The floor is .5. "later" has a good pair in the second attempt, among the replies 2 and 3."""
    return {"good": [None, 0.5], "later": [0.4, float("nan"), -1.0, 3.0], "never": [0.49] * 9}[image][k]


def score(tables):
    for table in tables:
        rows = []
        for row in table.to_pylist():
            ok = row["generation_status"] == "ok"
            pmi = pmi_of(row["image_id"], int(row["pair_id"].rpartition("/")[2])) if ok else None
            rows.append({"pmi": pmi, "i2c_status": "ok" if pmi is not None else "prompt is null"})
        yield pa.Table.from_pylist(rows, schema=pa.schema([("pmi", pa.float32()), ("i2c_status", pa.string())]))


def made(names=NAMES, writer=None, most=3, score=score, **options):
    retries = Retries(score, most, 0.5)
    tables = generate_with_retries(images(names), writer or Writer(), CONFIG, retries, progress=False, **options)
    return pa.concat_tables(tables)


def test_images_without_a_good_pair_are_asked_about_again_a_few_times():
    writer = Writer()
    table = made(writer=writer)
    assert table.schema == PAIR_TABLE_FEATURES.arrow_schema
    rows = table.to_pylist()
    attempts = {"good": [0], "later": [0, 1], "never": [0, 1, 2, 3], "empty": [0], "torn": [0, 1, 2, 3]}
    expected = [(name, f"{name}/{2 * n + k}", n) for name in NAMES for n in attempts[name] for k in range(2)]
    assert [(row["image_id"], row["pair_id"], row["attempt"]) for row in rows] == expected
    assert all(row["image_row"] == NAMES.index(row["image_id"]) for row in rows)
    assert Counter(row["generation_status"] for row in rows)["ok"] == 2 + 4 + 8
    assert count_attempts(table.to_batches(3)) == {
        "images asked about again, attempt 1": 3,
        "pairs of attempt 1": 6,
        "images asked about again, attempt 2": 2,
        "pairs of attempt 2": 4,
        "images asked about again, attempt 3": 2,
        "pairs of attempt 3": 4,
    }
    assert count_attempts([table.filter(pa.compute.equal(table["attempt"], 0))]) == {}


def test_the_first_attempt_is_what_is_made_without_others_and_shards_do_not_matter():
    rows = made().to_pylist()
    first = pa.concat_tables(generate_tables(images(), Writer(), CONFIG, progress=False)).to_pylist()
    assert [row for row in rows if row["attempt"] == 0] == first
    parts = [made(NAMES[:2]), made(NAMES[2:], first_row=2)]
    assert pa.concat_tables(parts).to_pylist() == rows


def test_every_attempt_has_draws_of_its_own():
    names = [f"image {number}" for number in range(40)]
    writer = Writer()
    again = pa.concat_tables(
        generate_tables(images(names), writer, replace(CONFIG, attempt=2), progress=False)
    ).to_pylist()
    assert [row["pair_id"] for row in again] == [f"{name}/{k}" for name in names for k in (4, 5)]
    first = pa.concat_tables(generate_tables(images(names), Writer(), CONFIG, progress=False)).to_pylist()
    same = np.mean([one["template"] == other["template"] for one, other in zip(first, again)])
    assert same < 0.5  # of some dozens of templates
    request = writer.requests[0]
    other = replace(request, ks=tuple(k - 4 for k in request.ks))
    assert not np.intersect1d(uniforms_of(3, request), uniforms_of(3, other)).size
    assert "attempt" not in CONFIG.identity() and replace(CONFIG, attempt=2).identity()["attempt"] == 2


def test_nothing_is_scored_that_decides_nothing():
    seen = []

    def counted(tables):
        tables = list(tables)
        seen.append(sum(map(len, tables)))
        return score(tables)

    made(["good"], score=counted)
    assert seen == [2]
    made(["never"], score=counted, most=1)
    assert seen == [2, 2]


def test_progress_is_told_of_the_replies_that_every_image_gets():
    """Not of those of later attempts, whose number nobody knows before."""
    told = []
    list(generate_with_retries(images(), Writer(), CONFIG, Retries(score, 3, 0.5), progress=told.append))
    assert sum(told) == len(NAMES) * CONFIG.pairs_per_image and len(told) > 1


def test_what_is_refused():
    with pytest.raises(ValueError, match="the images have no column image_id"):
        next(generate_with_retries(images().remove_columns("image_id"), Writer(), CONFIG, Retries(score)))
    with pytest.raises(ValueError, match="retries must be at least 1, not 0"):
        Retries(score, 0)
    with pytest.raises(ValueError, match="retry_floor must be a finite number, not nan"):
        Retries(score, 1, float("nan"))
    with pytest.raises(ValueError, match="there are 1 scores of 2 pairs"):
        made(["never"], score=lambda tables: [table.slice(1) for table in score(tables)])


def test_servers_are_asked_again_once(tmp_path, monkeypatch):
    """What was answered before an interruption is not asked for twice, whichever attempt it is of."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    content = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(content, "PNG")
    rows = {"image": [{"bytes": content.getvalue(), "path": None}], "image_id": ["never"]}
    pictures = Dataset.from_dict(rows, features=Features({"image": Image(), "image_id": Value("string")}))

    def answer(body):
        texts = [f"Question: What? Answer: It is {body['seed']}+{number}." for number in range(body.get("n", 1))]
        return completions(texts, model=body["model"])

    found = []
    with OpenAIServer(answer, ("m",)) as server:
        for most in (1, 2):
            options = ServerOptions([server.url], retry_wait=0, retries=0)
            with ServerWriter(options, tmp_path / "replies.jsonl", temperature=1.0, seed=3) as writer:
                tables = generate_with_retries(pictures, writer, CONFIG, Retries(score, most, 0.5), progress=False)
                found.append(pa.concat_tables(tables).to_pylist())
            assert len({json.dumps(body) for _, _, body in server.requests}) == len(server.requests)
    assert found[1][: len(found[0])] == found[0] and [row["attempt"] for row in found[1]] == [0, 0, 1, 1, 2, 2]
    assert len({row["raw"] for row in found[1]}) == 6
