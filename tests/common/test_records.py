"""Records: whole or mended from a copy, and in which settings two of them differ."""

import pytest

from c3l_hf.common.records import COPY, differences, flattened, is_whole, read_record, write_record

CONTENT = {"stage": "score", "options": {"ranking": "pmi", "floors": None}, "from": {"seed": 1}}


@pytest.fixture
def record(tmp_path):
    write_record(tmp_path / "stage.json", CONTENT)
    return tmp_path / "stage.json"


@pytest.mark.parametrize("harm", [lambda text: text.replace("pmi", "qmi"), lambda text: text[:-9], lambda _: "[]"])
def test_a_record_that_is_not_what_was_written_is_read_from_its_copy(record, harm):
    assert is_whole(record) and read_record(record) == CONTENT
    record.write_text(harm(record.read_text()))
    assert not is_whole(record) and read_record(record) == CONTENT
    copy = record.with_name(f"{record.name}{COPY}")
    copy.write_text(harm(copy.read_text()))
    assert read_record(record) is None


def test_a_record_of_an_older_version_has_no_checksum(tmp_path):
    (tmp_path / "stage.json").write_text('{"stage": "score"}')
    assert is_whole(tmp_path / "stage.json") and read_record(tmp_path / "stage.json") == {"stage": "score"}


def test_settings_are_named_as_users_know_them_and_digests_are_not_shown():
    there = {"options": {"rank": "pmi", "images": "0" * 32}, "from": {"seed": 1}}
    wanted = {"options": {"rank": "kl", "images": "1" * 32}, "from": {"seed": 1}}
    told = differences(there, wanted, {"rank": "ranking"})
    assert told == "images: other content there than asked for; ranking: 'pmi' there, 'kl' asked for"
    many = {"options": {f"option_{number}": number for number in range(6)}}
    assert differences({}, many).endswith("; and 2 more")


def test_values_in_values_by_their_names():
    assert flattened({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}
