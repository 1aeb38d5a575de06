"""Generators without a usable reply: found early, named with an example, and never where one reply has a pair."""

import pyarrow as pa
import pytest

from c3l_hf.common.errors import RunError
from c3l_hf.generation.requests import CUT_OFF, Reply, Request
from c3l_hf.generation.sampling import NON_FINITE
from c3l_hf.generation.usable import check_usable, watched
from c3l_hf.prompts.template_files import load_templates

TEMPLATE = load_templates("instruct").of_type("short")[0]
PAIR = "Question: What is this?\nAnswer: A red kite."


def requests(count, first=0):
    return [Request(n, str(n), TEMPLATE, (0, 1), [], [], 8) for n in range(first, first + count)]


def writer(reply):
    """Replies to each request twice with what a function of its number gives."""

    def write(requests):
        for request in requests:
            yield request, [reply(request.row)] * 2

    return write


def written(writer, count, first=0):
    return len(list(writer(requests(count, first))))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(""), r"none of the first 400 replies has a pair; most often \(400\): .*; try prompt templates"),
        (Reply("\x1b[31m\u202e<script>" * 9), r"as '\\x1b\[31m\\u202e<script>.*'…; try prompt templates"),
        (Reply("x" * 10**6), r", as 'x{80}'…; try"),
        (Reply("Question: a", CUT_OFF), "cut off at max_new_tokens, as 'Question: a'; give a larger max_new_tokens"),
        (Reply("", NON_FINITE), r"most often \(400\): .*: try another dtype"),
    ],
    ids=["nothing", "markup", "long", "endless", "no numbers"],
)
def test_a_generator_without_a_pair_is_given_up(reply, message):
    with pytest.raises(RunError, match=message):
        written(watched(writer(lambda row: reply)), 300)


def test_the_images_of_all_calls_count():
    """A shard may have fewer than it takes."""
    write = watched(writer(lambda row: Reply("no")))
    assert written(write, 199) == 199
    with pytest.raises(RunError, match="none of the first 400 replies has a pair"):
        written(write, 10, first=199)


def test_one_pair_is_enough():
    write = watched(writer(lambda row: Reply(PAIR if row == 150 else "no")))
    assert written(write, 1000) == 1000


def test_images_that_cannot_be_read_are_not_the_generator_s():
    unread = "the image cannot be read (it is no picture)"
    write = watched(writer(lambda row: Reply("", unread) if row < 500 else Reply("no")))
    assert written(write, 699) == 699
    with pytest.raises(RunError, match="none of the first 400 replies"):
        written(write, 1, first=699)


def table(*statuses):
    return pa.table({"generation_status": list(statuses), "raw": ["no pair"] * len(statuses)})


def test_a_stage_needs_a_pair():
    bad = "the image cannot be read (it is cut off)"
    check_usable([table("no question", bad), table("ok")])
    check_usable([table(bad, bad)])
    with pytest.raises(
        RunError, match=r"none of 3 replies has a pair; most often \(2\): no question, as 'no pair'; try"
    ):
        check_usable([table("no question", bad), table("no question", "no answer")])
