"""Replies that were paid for: what a disk does to them is asked again, and nothing else is."""

import pytest

from c3l_hf.common.replies_file import RepliesFile

REPLIES = {name: {"text": f"the {name} one", "cost": 0.25} for name in ("first", "second", "third")}


@pytest.fixture
def file(tmp_path):
    with RepliesFile(tmp_path / "replies.jsonl", ["text"]) as replies:
        for name, reply in REPLIES.items():
            replies.add({name: reply})
            assert replies.get(name)["text"] == reply["text"]
    return replies.file


def there(file):
    with RepliesFile(file, ["text"]) as replies:
        return {name: reply for name in REPLIES if (reply := replies.get(name)) is not None}


def test_every_flipped_bit_is_found(file, caplog):
    content = file.read_bytes()
    whole = there(file)
    assert whole == {name: {"request": name, **reply} for name, reply in REPLIES.items()}
    begin = content.index(b"\n") + 1
    for place in range(begin, content.index(b"\n", begin)):
        for bit in (1, 32):
            file.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            left = there(file)
            assert {"first", "third"} <= left.keys()  # of a name that is not read the content stays
            assert all(whole[name].items() <= reply.items() for name, reply in left.items())
    assert "line 2 is not what was written; its request is asked again" in caplog.text


def test_zeros_where_a_disk_lost_power(file, caplog):
    content = file.read_bytes()
    end = content.rindex(b"\n", 0, -1) + 1
    file.write_bytes(content[:end] + bytes(len(content) - end))
    assert list(there(file)) == ["first", "second"]
    assert "line 3 was not written to its end" in caplog.text
    with RepliesFile(file, ["text"]) as replies:
        replies.add({"third": REPLIES["third"]})
    assert list(there(file)) == list(REPLIES)


def test_lines_of_an_older_version_have_no_checksum(file):
    file.write_text('{"request": "first", "text": "old"}\n')
    assert there(file) == {"first": {"request": "first", "text": "old"}}
