"""What a run tells at its end."""

import pyarrow as pa

from c3l_hf.common.records import read_record, write_record
from c3l_hf.common.run_folder import RunFolder
from c3l_hf.common.shards import Shards
from c3l_hf.data.schema import PAIR_TABLE_FEATURES, SCORE_FEATURES
from c3l_hf.pipeline.closing import format_closing

STAGES = ("generate", "score", "train")


def pair(image, question, answer, turns=1):
    texts = [("user", question), ("assistant", answer)] * turns
    messages = [{"role": role, "content": text} for role, text in texts]
    return {
        "image_row": image,
        "image_id": f"photo-{image}.jpg",
        "prompt": messages[:1] if question else None,
        "completion": messages[1:] if question else None,
    }


def finished(folder, pairs, scores):
    """A run with these pairs, of which a score of None has none."""
    run = RunFolder(folder, {})
    run.plan({stage: {} for stage in STAGES}, STAGES)
    run.claim()
    rows = [{"i2c": score, "i2c_status": "ok" if score is not None else "no pair"} for score in scores]
    for stage, made, features in (("generate", pairs, PAIR_TABLE_FEATURES), ("score", rows, SCORE_FEATURES)):
        schema = features.arrow_schema
        table = pa.Table.from_pylist(made, schema=schema)

        def make(path, table=table, schema=schema):
            Shards(path, 1).write(0, [table], schema)

        run.complete(stage, make)
    return run


def shown(run, stages=STAGES):
    return format_closing(run, stages, "pmi").splitlines()


def test_the_best_and_the_worst_pairs(tmp_path):
    scores = [0.5, 0.9, 0.1, -0.2, None, float("nan"), 0.3, 0.7]
    pairs = [pair(n, f"Q{n}?", f"A{n}.") for n in range(8)]
    lines = shown(finished(tmp_path, pairs, scores))
    named = [line.split()[1] for line in lines if "photo" in line]
    assert named == [f"photo-{n}.jpg" for n in (1, 7, 0, 6, 2, 3)]
    at = lines.index("    0.900  photo-1.jpg")
    assert lines[at - 1] == "pmi of the pairs of generate, highest:"
    assert [line.strip() for line in lines[at + 1 : at + 3]] == ["Q1?", "→ A1."]
    assert lines[-3] == "   -0.200  photo-3.jpg"


def test_an_image_is_shown_once_among_the_best_and_no_pair_twice(tmp_path):
    pairs = [pair(image, f"Q{n}?", "A.") for n, image in enumerate([0, 0, 0, 1])]
    lines = shown(finished(tmp_path, pairs, [0.9, 0.8, 0.7, 0.1]))
    assert [line.strip() for line in lines if "?" in line] == ["Q0?", "Q3?", "Q2?"]


def test_texts_of_others_are_one_line_without_commands_to_the_terminal(tmp_path):
    evil = "\x1b[2J\x07\u202eis\nthis" + "a" * 100_000
    lines = shown(finished(tmp_path, [pair(0, evil, evil, turns=3)], [0.5]))
    (question, answer) = lines[-2:]
    assert question.strip().startswith("?[2J??is this") and question.endswith("…") and len(question) < 130
    assert "is this" in answer and answer.endswith("(and 2 more turns)")
    assert all(character.isprintable() for line in lines for character in line)


def test_without_scores_no_pair_is_shown(tmp_path):
    assert not any("photo" in line for line in shown(finished(tmp_path, [pair(0, "", "")], [None])))
    run = RunFolder(tmp_path / "other", {})
    run.plan({"generate": {}}, ["generate"])
    run.claim()
    run.complete("generate", lambda path: {})
    assert "pmi" not in format_closing(run, ["generate"], "pmi")


def test_what_the_stages_took(tmp_path):
    run = finished(tmp_path, [pair(0, "Q?", "A.")], [0.5])
    for stage, seconds, memory in (("generate", 4.25, 786_000_000), ("score", 7400.0, 2_340_000_000)):
        file = run.path(stage) / "stage.json"
        usage = {"seconds": seconds, "peak_memory_bytes": memory}
        write_record(file, read_record(file) | usage)
    run.complete("train", lambda path: {"steps": 20, "log": [], "from_step": 8})
    lines = shown(run)
    assert lines[2].split() == ["generate", "4.2", "s", "786", "MB"]
    assert lines[3].split() == ["score", "2", "h", "03", "min", "2.3", "GB"]
    assert lines[4].startswith("train (from step 8)") and lines[5].startswith("all")
    assert not any("accelerator" in line for line in lines)

    file = run.path("score") / "stage.json"
    write_record(file, read_record(file) | {"peak_accelerator_bytes": 14_100_000_000})
    lines = shown(run)
    assert "memory (accelerator)" in lines[0] and lines[3].endswith("14.1 GB") and lines[2].endswith("-")


def test_a_stage_of_an_older_version_has_no_figures(tmp_path):
    run = finished(tmp_path, [pair(0, "Q?", "A.")], [0.5])
    for stage in ("generate", "score"):
        assert shown(run)[0].split()[:1] == ["time"]
        file = run.path(stage) / "stage.json"
        record = read_record(file)
        write_record(file, {key: record[key] for key in ("stage", "options", "from", "report")})
        if stage == "generate":
            assert shown(run)[2].split() == ["generate", "-", "-"]
    assert shown(run)[0].startswith("pmi of the pairs")  # no table of nothing


def test_where_to_look_further(tmp_path):
    run = finished(tmp_path, [pair(0, "Q?", "A.")], [0.5])
    assert not any(str(tmp_path) in line for line in shown(run))
    for name in ("report.html", "unreadable.csv"):
        (tmp_path / name).write_text("x")
    says = [f"report: {tmp_path / 'report.html'}", f"unreadable pictures: {tmp_path / 'unreadable.csv'}"]
    assert shown(run)[-2:] == says
