"""What became of finished results is found at the next start, named, set aside and made again; and nothing else is."""

import errno
import json
import os
import shutil

import pyarrow as pa
import pytest

from c3l_hf.common import files
from c3l_hf.common.checksums import checksum
from c3l_hf.common.errors import RunError
from c3l_hf.common.run_folder import RunFolder

PLAN = {"first": {"k": 5}, "second": {"size": 3}, "third": {}}
SCHEMA = pa.schema({"y": pa.int64()})
ROWS = 7


class Chain:
    """A small run: two stages in shards and one without, of whose result `model` and `card.md` come to their place."""

    def __init__(self, folder, rows=ROWS):
        self.folder, self.rows, self.step, self.made = folder, rows, 2, []

    def __call__(self):
        """All stages, as a command makes them; what was made this time."""
        self.made = []
        run = RunFolder(self.folder, {"seed": 0}, results=("model", "card.md"), beside={"third": ("training-*",)})
        run.plan(PLAN, PLAN)
        run.claim()
        for stage in ("first", "second"):
            run.in_shards(stage, self.rows, self.rows_of(stage), SCHEMA, lambda shards: {"rows": shards.num_rows}, 2)
        run.complete("third", self.model)
        run.move_results()
        return self.made

    def rows_of(self, stage):
        def make(first, last):
            self.made.append((stage, first))
            yield pa.table({"y": [self.step * row for row in range(first, last)]})

        return make

    def model(self, path):
        self.made.append("third")
        (path / "model").mkdir(exist_ok=True)
        (path / "model" / "weights").write_bytes(b"w" * 1000)
        (path / "model" / "README.md").write_text("card")
        (path / "card.md").write_text("card")

    def content(self):
        """All that a later command or a user reads."""
        kept = [path for path in self.folder.rglob("*") if path.is_file() and path.name[0] != "."]
        kept = [path for path in kept if "set_aside" not in str(path) and path.suffix in (".parquet", ".md", "")]
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in kept}

    def stage(self, number):
        (path,) = self.folder.glob(f"stages/{number}_*")
        return path


@pytest.fixture(autouse=True, scope="module")
def quick_disk():
    """Nobody pulls the plug: what is not waited for here, the disk has all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda descriptor: None)
        patch.setattr("c3l_hf.common.run_folder.versions", dict)
        yield


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    chain = Chain(tmp_path_factory.mktemp("run") / "out")
    assert len(chain()) == 4 + 4 + 1
    return chain


@pytest.fixture
def chain(once, tmp_path):
    return Chain(shutil.copytree(once.folder, tmp_path / "out"))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def exchange(path):
    path.write_bytes(path.with_name(path.name.replace("00001", "00002")).read_bytes())


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def make_older(chain):
    """As an older version has left it."""
    for stage in (1, 2, 3):
        file = chain.stage(stage) / "stage.json"
        record = json.loads(file.read_text())
        new = ("checksum", "checksums", "made_of", "shard_size")
        file.write_text(json.dumps({key: value for key, value in record.items() if key not in new}))
        (chain.stage(stage) / "stage.json.bak").unlink()


def test_a_finished_run_has_the_checksums_of_all_its_files(once):
    for stage in once.folder.glob("stages/*"):
        checksums = json.loads((stage / "stage.json").read_text())["checksums"]
        found = {path: path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file()}
        found = {name: checksum(path) for path, name in found.items() if not name.startswith("stage.json")}
        moved = {name: value for name, value in checksums.items() if name not in found}
        assert {name: value for name, value in checksums.items() if name in found} == found
        assert all(checksum(once.folder / name) == value for name, value in moved.items())
        assert bool(moved) == (stage.name == "3_third")
    assert not list(once.folder.glob("stages/*/.*"))


@pytest.mark.parametrize("harm", [flip, cut, exchange, empty, remove])
def test_a_damaged_shard_is_named_and_made_again_and_nothing_else(once, chain, caplog, harm):
    shard = chain.stage(1) / "00001-of-00004.parquet"
    harm(shard)
    assert chain() == [("first", 2)]
    told = "is missing" if harm is remove else "is not what was written"
    assert f"stages/1_first/00001-of-00004.parquet {told}; it is made again" in caplog.text
    assert len(caplog.records) == 1 and chain.content() == once.content()
    kept = [path.relative_to(chain.folder).as_posix() for path in chain.folder.glob("set_aside-*/**/*.parquet")]
    assert kept == ([] if harm is remove else ["set_aside-1/stages/1_first/00001-of-00004.parquet"])
    caplog.clear()
    assert chain() == [] and not caplog.records


def test_what_was_made_of_something_else_is_made_again(once, chain, caplog):
    """As replies of a server are other ones the next time."""
    flip(chain.stage(1) / "00003-of-00004.parquet")
    (chain.folder / "training-0").mkdir()
    chain.step = 3
    assert chain() == [("first", 6), *[("second", first) for first in range(0, ROWS, 2)], "third"]
    assert "second was made of another result of first than is there now; it is made again, and what" in caplog.text
    kept = {path.relative_to(chain.folder / "set_aside-2").as_posix() for path in chain.folder.glob("set_aside-2/*")}
    assert kept == {"stages", "model", "card.md", "training-0"}
    assert sorted(path.name for path in chain.folder.glob("set_aside-2/stages/*")) == ["2_second", "3_third"]


def test_a_run_that_ends_after_the_repair_still_knows_what_is_stale(chain, monkeypatch):
    flip(chain.stage(1) / "00003-of-00004.parquet")
    chain.step = 3
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_set_stale_aside", lambda *_, **__: None)
        chain()
        assert len(chain.made) == 1
    assert chain()[-1] == "third" and len(chain.made) == 5


def test_shards_of_another_result_are_no_part_of_it(once, chain, caplog):
    shutil.copy(chain.stage(1) / "00001-of-00004.parquet", chain.stage(1) / "00000-of-00001.parquet")
    assert chain() == [] and chain.content() == once.content()
    assert "stages/1_first/00000-of-00001.parquet was not written by this run. What was there is in" in caplog.text
    assert len(list(chain.folder.glob("set_aside-1/stages/1_first/00000-of-00001.parquet"))) == 1


@pytest.mark.parametrize("harm", [flip, cut, empty, remove])
def test_a_damaged_record_is_mended_from_its_copy(once, chain, caplog, harm):
    for stage, name in ((1, "stage.json"), (2, "stage.json.bak")):
        harm(chain.stage(stage) / name)
    assert chain() == [] and chain.content() == once.content()
    assert "stages/1_first/stage.json is not what was written; it is mended from its copy" in caplog.text
    for stage in ("1_first", "2_second"):
        for name in ("stage.json", "stage.json.bak"):
            assert (chain.folder / "stages" / stage / name).read_bytes() == (
                once.folder / "stages" / stage / name
            ).read_bytes()


@pytest.mark.parametrize("harm", [cut, remove])
def test_a_stage_without_a_record_is_made_again(once, chain, caplog, harm):
    for name in ("stage.json", "stage.json.bak"):
        harm(chain.stage(3) / name)
    assert chain() == ["third"] and chain.content() == once.content()
    assert "stages/3_third/stage.json cannot be read, and neither can its copy; third is made again" in caplog.text
    assert (chain.folder / "set_aside-1" / "model" / "weights").is_file()


@pytest.mark.parametrize("name", ["run.json", "images.parquet"])
def test_other_files_of_a_run_need_not_be_whole(chain, name):
    empty(chain.folder / name)
    assert chain() == [] and (name != "run.json" or json.loads((chain.folder / name).read_text()))


def test_a_run_whose_record_of_settings_was_removed_is_still_a_run(chain):
    (chain.folder / "run.json").unlink()
    assert chain() == [] and (chain.folder / "run.json").is_file()


def test_a_file_of_a_stage_is_not_another_ones_of_the_same_name(once, chain, caplog):
    """As the training's `generator/`, beside which the run's folder has one with the same weights."""

    def as_well(path):
        chain.made.append("second")
        (path / "model").mkdir(exist_ok=True)
        (path / "model" / "weights").write_bytes(b"w" * 1000)

    def made():
        chain.made = []
        run = RunFolder(chain.folder, {"seed": 0}, results=("model", "card.md"))
        run.plan({"second": {}, "third": {}}, ["second", "third"])
        run.claim()
        run.complete("second", as_well)
        run.complete("third", chain.model)
        run.move_results()
        return chain.made

    shutil.rmtree(chain.folder)
    assert made() == ["second", "third"]
    (chain.stage(1) / "model" / "weights").unlink()
    assert made() == ["second"] and made() == []
    assert "stages/1_second/model/weights is missing; second is made again" in caplog.text


@pytest.mark.parametrize(("stage", "harm"), [(1, empty), (2, remove), (3, remove)])
def test_evident_damage_to_a_run_of_an_older_version(once, chain, caplog, stage, harm):
    make_older(chain)
    harm(chain.folder / "card.md" if stage == 3 else chain.stage(stage) / "00001-of-00004.parquet")
    again = {1: [("first", n) for n in (0, 2, 4, 6)], 2: [("second", n) for n in (0, 2, 4, 6)], 3: ["third"]}
    # Nobody knows what the stages after it were made of.
    assert chain() == [made for number in range(stage, 4) for made in again[number]]
    assert chain.content() == once.content() and "is made again" in caplog.text
    assert chain() == []


@pytest.mark.parametrize("removed", ["model", "model/weights"])
def test_results_that_have_gone_are_made_again(once, chain, caplog, removed):
    path = chain.folder / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert chain() == ["third"] and chain.content() == once.content()
    assert f" {removed} is missing; third is made again" in caplog.text


def test_a_changed_result_is_set_aside_and_a_changed_card_stays(once, chain, caplog):
    (chain.folder / "model" / "README.md").write_text("my own card")
    (chain.folder / "card.md").unlink()
    assert chain() == [] and (chain.folder / "model" / "README.md").read_text() == "my own card"
    (chain.folder / "model" / "weights").write_text("another model")
    assert chain() == ["third"] and chain.content() == once.content()
    assert "model/weights is not what was written; third is made again" in caplog.text
    assert (chain.folder / "set_aside-1" / "model" / "weights").read_text() == "another model"
    assert (chain.folder / "set_aside-1" / "model" / "README.md").read_text() == "my own card"


def test_a_result_in_the_way_of_one_that_is_not_moved_yet_is_kept(chain):
    shutil.copytree(chain.folder / "model", chain.stage(3) / "model")
    (chain.folder / "model" / "weights").write_text("mine")
    assert chain() == [] and (chain.folder / "set_aside-1" / "model" / "weights").read_text() == "mine"


def test_a_run_of_an_older_version_is_taken_as_it_is(chain, caplog):
    make_older(chain)
    shard = chain.stage(1) / "00001-of-00004.parquet"
    shard.write_bytes(shard.read_bytes().replace(b"PAR1", b"PAR2", 1))  # where only a checksum would tell it
    assert chain() == [] and len(caplog.records) == 3
    assert "stages/1_first is of an older version, without checksums; it is not checked" in caplog.text


def begin(folder, stop=4):
    """A run that was interrupted in its first stage."""
    chain = Chain(folder)

    def stopped(first, last):
        if first == stop:
            raise KeyboardInterrupt
        return Chain.rows_of(chain, "first")(first, last)

    chain.rows_of = lambda stage: stopped
    with pytest.raises(KeyboardInterrupt):
        chain()
    return Chain(folder)


@pytest.mark.parametrize("harm", [flip, empty, "no checksum"])
def test_shards_of_an_unfinished_stage_are_checked(once, tmp_path, caplog, harm):
    chain = begin(tmp_path / "out")
    shard = chain.stage(1) / "00001-of-00004.parquet"
    if harm == "no checksum":
        (shard.parent / ".00001-of-00004.parquet.xxh3").unlink()
    else:
        harm(shard)
    assert chain()[:3] == [("first", 2), ("first", 4), ("first", 6)] and chain.content() == once.content()
    told = "has no checksum" if harm == "no checksum" else "is not what was written"
    assert f"stages/1_first.unfinished/00001-of-00004.parquet {told}; it is made again" in caplog.text
    assert len(list(chain.folder.glob("set_aside-1/stages/1_first.unfinished/*.parquet"))) == 1


def test_what_an_unfinished_stage_was_begun_with_has_a_copy(once, tmp_path, caplog):
    chain = begin(tmp_path / "out")
    cut(chain.stage(1) / "begun.json")
    assert chain()[:2] == [("first", 4), ("first", 6)] and chain.content() == once.content()

    chain = begin(tmp_path / "other")
    for name in ("begun.json", "begun.json.bak"):
        cut(chain.stage(1) / name)
    assert chain()[0] == ("first", 0) and chain.content() == once.content()
    assert "nobody knows what the shards in stages/1_first.unfinished were made by" in caplog.text
    assert len(list(chain.folder.glob("set_aside-1/stages/1_first.unfinished/*.parquet"))) == 2


class Stopped(BaseException):
    """As a process is killed: nothing of ours is done afterwards but what `finally` does."""


def before_operation(patch, number, error):
    """Raise an error in the place of a file's or folder's naming, counted from 0; whether it came to it."""
    done = []

    def watched(plain):
        def operation(*args):
            done.append(args)
            if len(done) == number + 1:
                raise error
            return plain(*args)

        return operation

    for name in ("replace", "rename"):
        patch.setattr(files.os, name, watched(getattr(os, name)))
    return lambda: len(done) > number


@pytest.mark.parametrize("of", ["a new run", "a damaged run"])
@pytest.mark.parametrize(
    ("error", "every"),
    [(Stopped(), 1), (OSError(errno.ENOSPC, "No space left on device"), 3)],
    ids=["kill", "full disk"],
)
def test_whatever_ends_it_and_wherever_the_same_command_goes_on(tmp_path, of, error, every):
    """In front of each file that gets its name in a run, or in a repair: the result is that of a run without."""
    whole = Chain(tmp_path / "whole", rows=3)
    whole()
    number, came = 0, True
    while came:
        folder = tmp_path / str(number)
        if of == "a damaged run":
            shutil.copytree(whole.folder, folder)
            flip(folder / "stages" / "1_first" / "00001-of-00002.parquet")
            cut(folder / "stages" / "2_second" / "stage.json")
            (folder / "model" / "weights").unlink()
        chain = Chain(folder, rows=3)
        with pytest.MonkeyPatch.context() as patch:
            reached = before_operation(patch, number, error)
            try:
                chain()
            except (Stopped, OSError) as raised:
                assert isinstance(raised, Stopped) or raised.filename
            came = reached()
        chain()
        assert chain.content() == whole.content(), number
        assert not list(folder.rglob("*.partial")) and not list(folder.rglob("*.unfinished"))
        assert chain() == []
        shutil.rmtree(folder)
        number += every
    assert number > 20


@pytest.mark.parametrize("within", [True, False])
def test_a_folder_that_has_gone_is_not_made_anew(once, tmp_path, within):
    """A disk that is taken out and put back: it is seen at the next table, and the command goes on."""
    folder, away, chain = tmp_path / "out", tmp_path / "away", Chain(tmp_path / "out")

    def tables(first, last):
        if first == 2 and within:
            folder.rename(away)
        for _ in range(2):
            yield from Chain.rows_of(chain, "first")(first, last)

    def taken(first, last):
        if first == 2 and not within:
            folder.rename(away)
        return tables(first, last)

    chain.rows_of = lambda stage: taken
    with pytest.raises(OSError, match="00001-of-00004.parquet"):
        chain()
    assert not folder.exists() and chain.made.count(("first", 2)) == within
    away.rename(folder)
    chain = Chain(folder)
    assert chain()[:3] == [("first", 2), ("first", 4), ("first", 6)]


def test_a_run_says_that_its_folder_has_gone(tmp_path):
    run = RunFolder(tmp_path / "out", {})
    run.plan({"first": {}}, ["first"])
    run.claim()
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(RunError, match="out has gone while a run worked; put it back"):
        run.complete("first", lambda path: None)
    assert not (tmp_path / "out").exists()
    # Others may make something there, as a trainer does its checkpoints: it stays the run's own folder.
    (tmp_path / "out" / "training-0123456789ab-1" / "checkpoint-1").mkdir(parents=True)
    run.claim()
    (tmp_path / "out" / "training-mine").mkdir()
    (tmp_path / "out" / "run.json").unlink()
    with pytest.raises(RunError, match="was not made by c3l_hf"):
        run.check_folder()
