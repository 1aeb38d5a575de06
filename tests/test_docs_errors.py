"""docs/errors.md has every message of the package, by its first words, and none that is gone."""

import re
from itertools import groupby

import pytest
from package_messages import ROOT, Message, messages, words_of

PAGE = ROOT / "docs" / "errors.md"
# Words of the page's rule that stand for anything: NAME for one word, VALUE for any text.
STANDS_FOR = {"NAME": r"\S+", "VALUE": r".+?"}
FEWEST = 2  # words by which a message must be told, where it has so many


def entries() -> list[str]:
    """The beginnings of messages on the page: the code in the first cell of its tables of messages."""
    found, within = [], False
    for line in PAGE.read_text().splitlines():
        if not line.startswith("|"):
            within = False
        elif line == "| message | cause | remedy |":
            within = True
        elif within:
            found += re.findall(r"`([^`]+)`", line.split(" | ")[0])
    return found


def beginning(entry: str) -> re.Pattern[str]:
    """What a message that the entry is about begins with."""
    parts = re.split(f"\\b({'|'.join(STANDS_FOR)})\\b(?! is missing)", entry)
    return re.compile("".join(STANDS_FOR.get(part) or re.escape(part) for part in parts))


@pytest.fixture(scope="module")
def beginnings():
    return {entry: beginning(entry) for entry in entries()}


def row(message: Message) -> str:
    return f"| `{' '.join(message.text.split()[:9])}` | cause | remedy |  (line {message.line})"


def test_every_message_is_on_the_page(beginnings):
    told = [message for message in messages() if len(words_of(message.text)) >= FEWEST]  # others hand on another's text
    missing = [m for m in told if not any(pattern.match(m.text) for pattern in beginnings.values())]
    rows = [
        f"\n{file}\n" + "\n".join(map(row, group)) for file, group in groupby(missing, key=lambda message: message.file)
    ]
    assert not missing, (
        f"{len(missing)} messages are not in docs/errors.md. Put each into the table of the place where it appears, as "
        "a row, or as a further `beginning` in the first cell of a row that has its remedy:\n" + "\n".join(rows)
    )


def test_no_message_on_the_page_is_gone(beginnings):
    texts = [message.text for message in messages()]
    gone = [entry for entry, pattern in beginnings.items() if not any(map(pattern.match, texts))]
    assert not gone, f"docs/errors.md has messages that no code gives any more: {gone}"


def test_entries_tell_messages_apart(beginnings):
    whole = {message.text for message in messages()}
    short = [e for e in beginnings if e not in whole and len(words_of(e)) < FEWEST]
    assert not short, f"too short to find a message by: {short}"


def test_rows_have_cause_and_remedy():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert not [row for row in rows if len(row.strip("| ").split(" | ")) != 3 or "| |" in row]


def test_messages_are_found_in_all_their_forms():
    assert len(messages()) > 600
    texts = {(message.kind, message.text) for message in messages()}
    assert ("RowError", "the answer is empty") in texts  # a constant
    assert ("RowError", "the image has mode …; convert it to 8 bits per channel") in texts  # an f-string
    assert ("UsageError", "… are missing: give …, a YAML file with it (--config), or …") in texts  # a choice within
    assert ("reason of a row", "no server could be reached") in texts  # a table of reasons
    assert any(
        kind == "HubError" and text.startswith("… was changed by somebody else") for kind, text in texts
    )  # .format
