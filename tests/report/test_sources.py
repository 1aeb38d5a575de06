"""What reports are made of: runs, finished or not, written datasets, and rows in anybody's layout."""

import json
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Image
from published import write_run
from report_runs import images_of_run, write_finished, write_stages
from scored_rows import picture, png

from c3l_hf.common.errors import RowError, RunError
from c3l_hf.data.reading import ColumnOptions, PictureOptions
from c3l_hf.data.schema import TOKEN_COLUMNS
from c3l_hf.report.making import content_of
from c3l_hf.report.opening import open_source
from c3l_hf.report.page import page_html
from c3l_hf.report.run_source import run_source
from c3l_hf.report.sources import rows_source

PLAIN = (ColumnOptions(), PictureOptions())


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def shown(source, *options):
    content = content_of(source, *options)
    rows = list(content.pairs.rows())
    assert len(rows) == content.pairs.count and len({row.key for row in rows}) == len(rows)
    return content, rows


def same_picture(content, row, seed):
    return content.pictures[row.picture].open().tobytes() == picture(seed).tobytes()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return run_source(write_finished(tmp_path_factory.mktemp("finished") / "run"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("written") / "run") / "dataset"


@pytest.fixture(scope="module")
def finished(source):
    return shown(source)


def test_a_finished_run(finished):
    content, rows = finished
    first, second = ([row for row in rows if row.stage == stage] for stage in ("first round", "second round"))
    assert len(first) == len(second) == 13 and not content.notes
    assert [row.role for row in first[:4]] == ["rejected", "chosen"] * 2 and {row.role for row in second} == {None}
    assert [row.kept for row in second] == [False, True] * 6 + [False] and {row.kept for row in first} == {None}
    assert first[0].turns[0].question.startswith("First: ") and first[0].digest != second[0].digest
    assert first[0].pair_id == second[0].pair_id == "0/0" and first[0].picture == second[0].picture
    assert second[12].status == "no answer" and not second[12].turns and second[12].raw.startswith("Question: ")
    # The image's own picture, upright; not that of another.
    assert {content.pictures[row.picture].image_id for row in rows} == {str(number) for number in range(7)}
    assert all(content.pictures[row.picture].image_id == row.pair_id.split("/")[0] for row in rows)
    assert content.pictures[second[2].picture].open().size == (10, 12)
    (turn,) = second[0].turns
    assert turn.tokens == ("t", "wo") and turn.gain == pytest.approx((0.4, 0.7)) and turn.divergence[0] > 0
    assert content.ranking == "i2c" and content.threshold_score == "pmi_k"
    assert content.threshold == min(row.scores["pmi_k"] for row in second if row.kept)
    assert dict(content.facts)["generator before training"] == "org/vlm"


def test_what_is_counted(finished):
    content, _ = finished
    funnel = {part.stage: (part.before, part.after, list(part.dropped)) for part in content.funnel}
    assert funnel["generate"] == (None, 12, [("no answer", 1)])
    assert funnel["score"] == (13, 12, [("no pair", 1)])
    assert funnel["select"] == (7, 6, [("fewer than two scored pairs", 1)])
    assert funnel["curate"] == (13, 6, [("beyond the quota of the type", 6), ("no pair", 1)])
    tables = {table.title: table for table in content.tables}
    assert tables["Time and memory"].rows[0] == ["generate", "12.5 s", "3.2 GB", ""]
    # 6 images: 90 prompt tokens each once, and 7 + number of replies for each of the 13 rows.
    assert ["generate", "served", "630", "127"] in [list(row)[:4] for row in tables["Tokens"].rows]
    assert ["second round", "no answer", "1"] in tables["What became of the rows"].rows
    charts = {chart.title: chart for chart in content.charts}
    assert list(tables["Truth"].rows[0]) == ["generated", "13", "80.0%", "70.0% to 90.0%"]
    assert {"Training: loss", "Scores: first round", "Types of question: second round"} <= charts.keys()
    filter = charts["Scores: second round"].filter
    assert (filter.score, filter.stage) == ("i2c", "second round")
    bars = charts["Scores: second round"].svg.count(f'id="{charts["Scores: second round"].id}-bar-')
    assert bars == len(filter.edges) - 1


def test_a_score_that_parts_nothing_is_no_threshold(source):
    second = source.pools[1]
    everything = replace(second, kept=second.ids["pair_id"].combine_chunks())
    assert content_of(replace(source, pools=[everything])).threshold is None


def test_a_run_that_is_not_finished(tmp_path):
    folder = write_stages(tmp_path / "run", last="generate")
    content, rows = shown(run_source(folder))
    assert len(rows) == 13 and not rows[0].scores and content.ranking is None and content.threshold is None
    assert any("score, select, train" in note and "missing" in note for note in content.notes)
    with pytest.raises(RowError, match="say where they are .images."):
        content.pictures[0].open()
    content, rows = shown(run_source(folder, images_of_run()))
    assert content.pictures[rows[0].picture].open().size == (10, 12)


@pytest.mark.parametrize(("name", "message"), [("empty", "has no pairs yet"), ("broken", "run.json cannot be read")])
def test_a_run_without_pairs(tmp_path, name, message):
    (tmp_path / name).mkdir()
    (tmp_path / name / "run.json").write_text("{}" if name == "empty" else "{")
    with pytest.raises(RunError, match=message):
        open_source(str(tmp_path / name), *PLAIN)


def test_a_written_dataset_has_nothing_of_the_first_round(written):
    content, rows = shown(open_source(str(written), *PLAIN))
    assert {row.stage for row in rows} == {"second round"} and len(rows) == 13
    assert sum(bool(row.kept) for row in rows) == 6
    assert content.pictures[rows[0].picture].open().size == (10, 12)
    assert str(written.parent) not in repr(content.facts) + repr(content.tables)


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        (lambda manifest: manifest["facts"].update(stages=[["generate", [["ok", "many"]]]]), "ValueError"),
        (lambda manifest: manifest["facts"].update(stages=[["generate", [["ok", float("inf")]]]]), "OverflowError"),
        (lambda manifest: manifest["configs"]["scored"].update(rows=5), "have 13 rows, the manifest says 5"),
    ],
)
def test_a_manifest_that_somebody_has_bent(tmp_path, written, bend, message):
    folder = shutil.copytree(written, tmp_path / "dataset")
    manifest = json.loads((folder / "manifest.json").read_text())
    bend(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=f"is not as c3l_hf writes it .*{message}"):
        open_source(str(folder), *PLAIN)


def test_files_that_somebody_has_bent(tmp_path, written):
    folder = shutil.copytree(written, tmp_path / "dataset")
    (tmp_path / "mine.png").write_bytes(png(1))
    (images,) = (folder / "images").glob("*.parquet")
    table = pq.read_table(images)
    path = pa.array([[{"bytes": None, "path": str(tmp_path / "mine.png")}]] * len(table))
    pq.write_table(table.set_column(table.column_names.index("images"), "images", path), images)
    content, rows = shown(open_source(str(folder), *PLAIN))
    with pytest.raises(RowError, match="the image is not in the dataset, only a path"):  # of somebody else's choice
        content.pictures[rows[0].picture].open()
    (scored,) = (folder / "scored").glob("*.parquet")
    table = pq.read_table(scored)
    ids = pa.array([{"a": 1}] * len(table))
    pq.write_table(table.set_column(table.column_names.index("image_id"), "image_id", ids), scored)
    with pytest.raises(RunError, match="is not as c3l_hf writes it"):
        open_source(str(folder), *PLAIN)


def test_a_dataset_in_llavas_layout_with_a_picture_missing(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png(1))
    turns = [("human", "<image>\nWhat is this?"), ("gpt", "A dog."), ("human", "And its colour?"), ("gpt", "Red.")]
    said = [{"from": who, "value": text} for who, text in turns]
    rows = [
        {"id": "1", "image": "a.png", "conversations": said},
        {"id": "2", "image": "gone.png", "conversations": said[:2]},
        {"id": "3", "image": "a.png", "conversations": said[:1]},
        {"id": "4", "image": None, "conversations": said[:2]},
    ]
    (tmp_path / "llava.json").write_text(json.dumps(rows))
    pictures = PictureOptions(image_folder=str(tmp_path / "pictures"))
    content, (two_turns, unanswered, missing, without) = shown(
        open_source(str(tmp_path / "llava.json"), ColumnOptions(), pictures)
    )
    assert [(turn.question, turn.answer) for turn in two_turns.turns] == [
        ("What is this?", "A dog."),
        ("And its colour?", "Red."),
    ]
    assert two_turns.status == "ok" and two_turns.kept is None and not two_turns.scores
    assert same_picture(content, two_turns, 1) and unanswered.picture == two_turns.picture
    assert not unanswered.turns and "no answer of the assistant" in unanswered.status
    assert missing.turns[0].answer == "A dog." and missing.status == "ok"
    with pytest.raises(RowError, match="gone.png cannot be read: there is no such file"):
        content.pictures[missing.picture].open()
    assert "image" in without.status
    with pytest.raises(RowError, match="1 <image> markers for 0 images"):
        content.pictures[without.picture].open()
    counts = {tuple(row[1:]) for row in content.tables[0].rows}
    assert ("ok", "2") in counts


def test_pairs_of_an_image_that_lie_apart_come_together_with_their_own_scores(tmp_path):
    rows = [
        {"image": png(number % 2), "question": f"q{number}?", "answer": f"a{number}", "pmi": float(number)}
        for number in range(6)
    ]
    dataset = Dataset.from_list(rows).cast_column("image", Image())
    content, found = shown(rows_source(dataset, "mine"))
    assert [row.turns[0].question for row in found] == ["q0?", "q2?", "q4?", "q1?", "q3?", "q5?"]
    assert [row.scores["pmi"] for row in found] == [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]
    assert [row.pair_id for row in found] == ["000000/0", "000000/1", "000000/2", "000001/0", "000001/1", "000001/2"]
    assert all(same_picture(content, row, int(row.pair_id[5])) for row in found)
    assert content.ranking == "pmi"


def test_turns_have_their_own_tokens(tmp_path):
    score = dict.fromkeys(("i2c", "pmi"), 1.0)
    row = {
        "image": png(0),
        "messages": [
            {"role": role, "content": f"{role} {number}"} for number in range(3) for role in ("user", "assistant")
        ],
        "answer_tokens": ["x", "y", "z"],
        "token_kl_per_token": [0.1, 0.2, 0.3],
        "logprob_per_token": [-1.0, -1.0, -1.0],
        "logprob_blind_per_token": [-2.0, -0.5, -1.0],
        # The second turn has no score.
        "turns": [{**score, "tokens": 1}, {"i2c": None, "pmi": None, "tokens": 0}, {**score, "tokens": 2}],
        "i2c_status": "assistant turn 2: too long",
        **score,
    }
    _, (found,) = shown(rows_source(Dataset.from_list([row]).cast_column("image", Image()), "mine"))
    assert [turn.tokens for turn in found.turns] == [("x",), (), ("y", "z")]
    assert [list(turn.gain) for turn in found.turns] == [[1.0], [], [-0.5, 0.0]]
    assert found.status == "assistant turn 2: too long"
    # Counts that do not add up colour no token that is not the answer's.
    row["turns"][2]["tokens"] = 5
    _, (found,) = shown(rows_source(Dataset.from_list([row]).cast_column("image", Image()), "mine"))
    assert [turn.tokens for turn in found.turns] == [(), (), ()]


@pytest.mark.parametrize(
    "columns",
    [
        {"turns": 3, "answer_tokens": 7, "embedding": ["x"], "i2c_status": ["odd"]},
        {"turns": ["a"], "type": ["a", "b"], "generation_status": {"a": "b"}, "i2c": [1.0]},
        {"turns": [{"a": 1}], "type": {"a": 1}, "language": ["en"], "i2c": "high"},
        {name: [1] for name in TOKEN_COLUMNS} | {"$\\frac$": 2.0},
    ],
)
def test_columns_of_the_scorers_names_may_be_anything_in_others_rows(columns, tmp_path):
    rows = [{"image": png(n), "question": "q?", "answer": "a", "type": ("x", "y")[n], **columns} for n in range(2)]
    content, found = shown(rows_source(Dataset.from_list(rows).cast_column("image", Image()), "mine"))
    assert [pair.turns[0].answer for pair in found] == ["a", "a"] and not any(pair.turns[0].tokens for pair in found)
    assert "i2c" not in found[0].scores
    assert page_html(content)
    if isinstance(columns.get("type"), list):
        assert {pair.type for pair in found} == {"['a', 'b']"}


def test_a_sample_is_of_whole_images_and_said(source, finished):
    content, rows = shown(source, 9)
    assert 0 < len(rows) <= 9 and len(content.pictures) == len({row.picture for row in rows})
    for row in rows:
        assert content.pictures[row.picture].image_id == row.pair_id.split("/")[0]
    (note,) = content.notes
    assert note.startswith(f"The gallery shows {len(rows)} of 26 pairs: those of {len(content.pictures)} images")
    assert {row.key for row in rows} < {row.key for row in finished[1]}
    with pytest.raises(RunError, match="num_pairs is 0"):
        content_of(source, 0)


def test_what_an_evaluation_found(tmp_path):
    figure = {"by": "text", "group": "adversarial", "figure": "accuracy", "shown": True, "questions": 10, "clusters": 5}
    figure |= {"value": 0.8, "low": 0.7, "high": None}
    results = {"questions": 12, "asked": 10, "figures": [figure, {**figure, "shown": False}]}
    (tmp_path / "evaluation" / "pope").mkdir(parents=True)
    (tmp_path / "evaluation" / "pope" / "results.json").write_text(json.dumps(results))
    source = run_source(write_stages(tmp_path / "run", last="generate"))
    content = content_of(source, evaluation=tmp_path / "evaluation")
    (table,) = (table for table in content.tables if table.title == "Benchmark: pope")
    assert list(map(list, table.rows)) == [["adversarial accuracy", "text", "0.800", "0.700 to –", "10"]]
    assert table.note == "Asked 10 of 12 questions."
    (tmp_path / "evaluation" / "pope" / "results.json").write_text("[]")
    with pytest.raises(RunError, match="is not what c3l evaluate writes"):
        content_of(source, evaluation=tmp_path / "evaluation")
    with pytest.raises(RunError, match="has no ./results.json"):
        content_of(source, evaluation=tmp_path)


def test_columns_that_are_no_pairs(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(RunError, match="cannot find pairs in the columns a"):
        open_source(str(tmp_path / "a.parquet"), *PLAIN)
    with pytest.raises(RunError, match="images are those of a run"):
        open_source(str(tmp_path / "a.parquet"), *PLAIN, images=images_of_run())


def counts_of(content):
    (table,) = (table for table in content.tables if table.title == "What became of the rows")
    return {status: int(rows) for _, status, rows in table.rows}


def test_a_row_without_an_answer_is_counted_as_it_is_shown():
    rows = [{"image": png(0), "question": "q?", "answer": answer} for answer in ("a", None)]
    content, found = shown(rows_source(Dataset.from_list(rows).cast_column("image", Image()), "mine"))
    assert [row.status for row in found] == ["ok", "answer is null"]
    assert counts_of(content) == {"ok": 1, "answer is null": 1}
    # A status says more.
    scored = Dataset.from_list([{**row, "i2c_status": "the answer is missing"} for row in rows])
    content, found = shown(rows_source(scored.cast_column("image", Image()), "mine"))
    assert [row.status for row in found] == ["the answer is missing"] * 2
    assert counts_of(content) == {"ok": 0, "the answer is missing": 2}


def test_reasons_that_differ_in_a_name_or_a_number_are_one_line():
    rows = [
        {"image": png(0), "question": "q?", "answer": "a", "i2c_status": f"{number} tokens, but the model takes 99"}
        for number in (100, 200)
    ]
    content, found = shown(rows_source(Dataset.from_list(rows).cast_column("image", Image()), "mine"))
    assert [row.status for row in found] == [row["i2c_status"] for row in rows]
    assert counts_of(content) == {"ok": 0, "N tokens, but the model takes N": 2}


def test_a_row_without_its_own_image_id_shows_its_picture():
    rows = [{"image": png(n), "question": "q?", "answer": "a", "image_id": [7, None, None][n]} for n in range(3)]
    content, found = shown(rows_source(Dataset.from_list(rows).cast_column("image", Image()), "mine"))
    assert [content.pictures[row.picture].image_id for row in found] == ["7", "row 1", "row 2"]
    assert all(same_picture(content, row, number) for number, row in enumerate(found))


@pytest.mark.parametrize("column", ["images", "image"])
@pytest.mark.parametrize("as_paths", [False, True])
def test_rows_with_several_pictures_are_counted(tmp_path, column, as_paths):
    (tmp_path / "a.png").write_bytes(png(0))
    picture = "a.png" if as_paths else {"bytes": png(0), "path": None}
    rows = [{column: [picture] * number, "question": "q?", "answer": "a"} for number in (1, 2, 3)]
    content = content_of(rows_source(Dataset.from_list(rows), "mine", tmp_path))
    assert "Of rows with several pictures (2) the first is shown." in content.notes


def test_the_numbers_of_an_array_are_one_picture():
    pixels = [[[0, 0, 0], [9, 9, 9]], [[0, 0, 0], [9, 9, 9]]]
    rows = Dataset.from_list([{"image": pixels, "question": "q?", "answer": "a"}])
    assert not content_of(rows_source(rows, "mine")).notes


def test_rows_with_several_pictures_in_their_messages_are_counted():
    def row(*pictures):
        asked = [*({"type": "image", "image": name} for name in pictures), {"type": "text", "text": "q?"}]
        said = [{"type": "text", "text": "a"}]
        return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}

    rows = Dataset.from_list([row("a.png"), row("a.png", "b.png"), row()])
    assert "Of rows with several pictures (1) the first is shown." in content_of(rows_source(rows, "mine")).notes
    # A column with pictures and lists of them.
    mixed = [{"image": image, "question": "q?", "answer": "a"} for image in ("a.png", ["a.png", "b.png"], None)]
    rows = Dataset.from_list(mixed, on_mixed_types="use_json")
    assert "Of rows with several pictures (1) the first is shown." in content_of(rows_source(rows, "mine")).notes
