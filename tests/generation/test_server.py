"""Replies of servers: what is sent, what becomes of every misbehaviour, and that nothing is asked twice or lost."""

import base64
import io
import itertools
import json
import logging
import re
import socket
import threading
from collections import Counter

import PIL.Image
import pytest
from openai_server import DROP, HANG, OpenAIServer, Response, completion, completions, error

from c3l_hf.common.errors import RunError
from c3l_hf.generation.requests import CUT_OFF, Request, seed_of
from c3l_hf.generation.server import ServerOptions, ServerWriter
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.prompts.templates import Template

KEY = "sk-server-0123456789abcdef"
SCHEMA = {"type": "object", "properties": {"question": {"type": "string"}, "answer": {"type": "string"}}}


def asking(id="count-1", schema=None):
    """A prompt template, perhaps with a schema for its reply."""
    reply = ReplyForm() if schema is None else ReplyForm("json", json_schema=json.dumps(schema))
    return Template(id, "count", "?", reply=reply)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("C3L_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def png(number=0, **options):
    content = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (number, 0, 0)).save(content, **{"format": "PNG", **options})
    return content.getvalue()


ASKING = asking()


def request(number=0, ks=(0, 1, 2), text="What is here?", template=ASKING, images=None, messages=None):
    images = [{"bytes": png(number), "path": None}] if images is None else images
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
    messages = messages or [{"role": "user", "content": content}]
    return Request(number, f"image-{number}", template, tuple(ks), messages, images, 50)


def several(body):
    """What a good server answers: as many texts as were asked for, told apart by picture and seed."""
    content = body["messages"][-1]["content"]
    picture = next((part["image_url"]["url"][-30:-20] for part in content if part["type"] == "image_url"), "")
    texts = [f"{picture} {body.get('seed')}+{number}" for number in range(body.get("n", 1))]
    return completions(texts, model=body["model"], usage={"prompt_tokens": 10, "completion_tokens": 3 * len(texts)})


def serving(answer=several, models=("m",)):
    return OpenAIServer(answer, models)


def write(server, requests, folder, options=None, file="replies.jsonl", **arguments):
    """The replies by (image_id, k), and the writer."""
    urls = [server.url] if isinstance(server, OpenAIServer) else server
    options = ServerOptions(urls, **{"retry_wait": 0, "retries": 2, "timeout": 30, "concurrency": 4, **(options or {})})
    with ServerWriter(options, folder / file, **{"seed": 7, **arguments}) as writer:
        found = {}
        for asked, replies in writer(requests):
            assert len(replies) == len(asked.ks) and asked.image_id not in found
            found |= {(asked.image_id, k): reply for k, reply in zip(asked.ks, replies)}
    return found, writer


def texts(replies):
    return {key: reply.text for key, reply in replies.items()}


def problems(replies):
    return Counter(reply.problem for reply in replies.values())


# --- what is sent


def test_the_request(tmp_path):
    with serving() as server:
        replies, writer = write(server, [request()], tmp_path, temperature=0.7, top_p=0.9)
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions" and "Authorization" not in headers
    url = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    assert body.pop("messages") == [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is here?"}],
        }
    ]
    seed = seed_of(7, request(), 0)
    assert body == {"model": "m", "max_tokens": 50, "temperature": 0.7, "top_p": 0.9, "seed": seed, "n": 3}
    assert [reply.problem for reply in replies.values()] == [None] * 3 and len(set(texts(replies).values())) == 3
    assert [reply.prompt_tokens for reply in replies.values()] == [10, None, None]
    assert [reply.completion_tokens for reply in replies.values()] == [9, None, None]
    assert {reply.served_model for reply in replies.values()} == {"m"} and writer.served_model == "m"


def test_texts_alone_go_as_text_and_pictures_into_their_places(tmp_path):
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "First:"}, {"type": "image"}]},
        {"role": "assistant", "content": "A red one."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this?"}]},
    ]
    images = [{"bytes": png(number), "path": None} for number in (1, 2)]
    with serving() as server:
        write(server, [request(messages=messages, images=images)], tmp_path)
    sent = server.requests[0][2]["messages"]
    assert (sent[0]["content"], sent[2]["content"]) == ("Be brief.", "A red one.")
    first, second = sent[1]["content"][1], sent[3]["content"][0]
    assert first["image_url"]["url"].endswith(base64.b64encode(png(1)).decode())
    assert second["image_url"]["url"].endswith(base64.b64encode(png(2)).decode())


def test_further_fields_and_those_that_are_left_out(tmp_path):
    extra = {"max_tokens": None, "max_completion_tokens": 99, "seed": None, "top_p": None, "top_k": -1}
    with serving() as server:
        write(server, [request()], tmp_path, {"extra_body": extra})
    body = server.requests[0][2]
    assert body.keys() == {"model", "messages", "temperature", "n", "max_completion_tokens", "top_k"}


def test_the_schema_of_the_form_is_sent(tmp_path):
    template = asking(schema=SCHEMA)
    with serving() as server:
        write(server, [request(template=template)], tmp_path, file="1.jsonl")
        write(server, [request(template=template)], tmp_path, {"constrain": False}, file="2.jsonl")
    constrained, free = (body for *_, body in server.requests)
    assert constrained["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "strict": True, "schema": SCHEMA},
    }
    assert "response_format" not in free


def test_the_pattern_of_the_form_is_sent(tmp_path):
    expression = r"Q: (?P<question>[^\n]+) A: (?P<answer>[^\n]+)"
    form = ReplyForm("regex", expression=expression, written="Q: {question} A: {answer}")
    for template, expected in (
        (Template("a", "x", "?", reply=form), {"regex": r"Q: ([^\n]+) A: ([^\n]+)"}),
        (Template("a", "x", "?", reply=form, turns=(2, 2)), None),
        (Template("a", "x", "?"), None),
    ):
        with serving() as server:
            write(server, [request(template=template)], tmp_path, file=f"{template.turns}{expected}.jsonl")
        ((_, _, body),) = server.requests
        assert body.get("structured_outputs") == expected and "response_format" not in body


def picture(url):
    return PIL.Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2])))


def sent_picture(folder, image):
    with serving() as server:
        replies, _ = write(server, [request(images=[image], ks=[0])], folder)
    return server.requests[0][2]["messages"][0]["content"][0]["image_url"]["url"] if server.requests else replies


@pytest.mark.parametrize(("format", "media"), [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")])
def test_a_picture_goes_as_it_is_stored(tmp_path, format, media):
    content = png(200, format=format)
    (tmp_path / "picture").write_bytes(content)
    url = f"data:{media};base64,{base64.b64encode(content).decode()}"
    assert sent_picture(tmp_path, {"bytes": None, "path": str(tmp_path / "picture")}) == url


def test_a_picture_that_readers_see_differently_goes_as_what_we_see(tmp_path):
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    tall = PIL.Image.new("RGB", (8, 4), "red")
    content = io.BytesIO()
    tall.save(content, "JPEG", exif=turned)
    assert picture(sent_picture(tmp_path, {"bytes": content.getvalue(), "path": None})).size == (4, 8)
    content = io.BytesIO()
    PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(content, "PNG")
    seen = picture(sent_picture(tmp_path, {"bytes": content.getvalue(), "path": None}))
    assert seen.mode == "RGB" and seen.getpixel((0, 0)) == (255, 255, 255)


def test_what_cannot_be_asked_is_kept_with_its_reason(tmp_path):
    control = "a text with <|im_end|> in it"
    missing = str(tmp_path / "not-there.png")
    requests = [
        request(0),
        request(1, images=[{"bytes": b"no picture", "path": None}]),
        request(2, images=[{"bytes": png(), "path": None}, {"bytes": None, "path": missing}]),
        request(3, text=control),
        request(4, messages=[{"role": "user", "content": "No place for the image."}]),
    ]
    with serving() as server:
        replies, writer = write(server, requests, tmp_path)
    assert len(server.requests) == 1
    reasons = [replies[f"image-{number}", 0].problem for number in range(5)]
    assert reasons[:1] == [None] and reasons[1] == "the image cannot be read (it is no picture)"
    assert reasons[2] == "images[1] cannot be read (there is no such file)"
    assert reasons[3] == "the text contains the control token '<|im_end|>'"
    assert reasons[4] == "the messages have fewer places for images than there are images"
    assert dict(writer.summary())["replies with a problem"] == 12


# --- what a server gives, and does not take


def test_fewer_than_were_asked_for(tmp_path):
    """The rest is asked for, with other seeds; what came is not asked for again."""
    with serving(lambda body: several({**body, "n": 2})) as server:
        replies, _ = write(server, [request(ks=range(5))], tmp_path)
    assert [body.get("n", 1) for *_, body in server.requests] == [5, 3, 1]
    seeds = [body["seed"] for *_, body in server.requests]
    assert seeds == [seed_of(7, request(), k) for k in (0, 2, 4)]
    assert len(set(texts(replies).values())) == 5 and problems(replies) == {None: 5}


def test_more_than_were_asked_for(tmp_path):
    with serving(lambda body: several({**body, "n": 9})) as server:
        replies, _ = write(server, [request()], tmp_path)
    assert len(server.requests) == 1 and len(replies) == 3


def without(*names, status=400):
    """A server that does not take some fields."""

    def answer(body):
        refused = [name for name in names if name in body]
        return error(status, f"{refused[0]} is not supported") if refused else several(body)

    return answer


def test_a_server_that_refuses_n(tmp_path, caplog):
    with serving(without("n")) as server:
        replies, _ = write(server, [request(number) for number in range(3)], tmp_path, {"concurrency": 1})
    assert [("n" in body) for *_, body in server.requests] == [True] + [False] * 9
    assert problems(replies) == {None: 9} and len(set(texts(replies).values())) == 9
    assert {body["seed"] for *_, body in server.requests} == {
        seed_of(7, request(number), k) for number in range(3) for k in range(3)
    }
    assert caplog.text.count("refuses the field n, and from now on is asked for one reply at a time") == 1


def test_a_server_that_refuses_the_schema(tmp_path, caplog):
    """That of one form: another may be taken."""
    other = {"type": "object"}

    def answer(body):
        form = body.get("response_format")
        return error(422, "grammar error") if form and form["json_schema"]["schema"] == SCHEMA else several(body)

    forms = [asking("hard", SCHEMA), asking("easy", other)]
    requests = [request(number, template=forms[number % 2]) for number in range(6)]
    with serving(answer) as server:
        replies, _ = write(server, requests, tmp_path, {"concurrency": 1})
    assert problems(replies) == {None: 18} and len(server.requests) == 7
    assert ["response_format" in body for *_, body in server.requests] == [True, False, True, False, True, False, True]
    assert "refuses the field response_format of hard, and from now on does not constrain" in caplog.text


def test_a_server_that_takes_none_of_it(tmp_path):
    with serving(without("n", "seed", "response_format")) as server:
        replies, _ = write(server, [request(number, template=asking(schema=SCHEMA)) for number in range(2)], tmp_path)
    assert problems(replies) == {None: 6}


def test_a_request_that_is_refused_itself_teaches_nothing(tmp_path):
    """As one that is too long: the server takes `n` of the others."""

    def answer(body):
        return error(400, "too long") if "long" in body["messages"][0]["content"][1]["text"] else several(body)

    requests = [request(0, text="long"), *(request(number) for number in range(1, 4))]
    with serving(answer) as server:
        replies, _ = write(server, requests, tmp_path, {"concurrency": 1})
    assert problems(replies) == {"the server answered HTTP 400": 3, None: 9}
    assert [body.get("n") for *_, body in server.requests][-3:] == [3, 3, 3]


@pytest.mark.parametrize(
    ("answer", "problem", "text"),
    [
        (completions(["cut"] * 3, "length"), CUT_OFF, "cut"),
        (completions([None] * 3, "content_filter"), "withheld by the server's content filter", ""),
        (completions([None] * 3, message={"refusal": "I cannot."}), "refused by the model", "I cannot."),
        (completions([None] * 3), "the server sent an empty reply", ""),
        (completions([""] * 3), "the server sent an empty reply", ""),
        (completions(["half"] * 3, "tool_calls"), "ended by the server before its end", "half"),
        (completions(["half"] * 3, "abort"), "ended by the server before its end", "half"),
    ],
)
def test_a_reply_that_is_no_whole_one(tmp_path, answer, problem, text):
    """It is kept raw with its reason, and was paid for: it is not asked for again."""
    with serving(lambda body: answer) as server:
        replies, _ = write(server, [request()], tmp_path)
        again, _ = write(server, [request()], tmp_path)
    assert {(reply.text, reply.problem) for reply in replies.values()} == {(text, problem)}
    assert again == replies and len(server.requests) == 1


HALF = Response(200, several({"messages": [{"content": []}], "model": "m"}).body[:60])


@pytest.mark.parametrize(
    ("bad", "problem", "tries"),
    [
        (error(429, "slow down"), "the server answered HTTP 429", 3),
        (error(429, "slow down", Retry_After="0"), "the server answered HTTP 429", 3),
        (Response(500), "the server answered HTTP 500", 3),
        (DROP, "the connection to the server was lost", 3),
        (HALF, "the server sent what is no reply", 3),
        (Response(200, b'{"choices": []}'), "the server sent what is no reply", 3),
        (Response(200, b"<html>"), "the server sent what is no reply", 3),
        (error(413, "too large"), "the server answered HTTP 413", 1),
    ],
)
def test_a_failure_is_repeated_then_kept_and_asked_again_by_a_later_run(tmp_path, caplog, bad, problem, tries):
    """Nothing is lost, nothing comes twice."""
    requests = [request(number) for number in range(4)]
    bad_seed = seed_of(7, requests[1], 0)
    with serving(lambda body: bad if body["seed"] == bad_seed else several(body)) as server:
        replies, writer = write(server, requests, tmp_path)
        assert sum(body["seed"] == bad_seed for *_, body in server.requests) == tries
        assert problems(replies) == {problem: 3, None: 9} and len(server.requests) == 3 + tries
        assert replies["image-1", 0].problem == problem
        assert len(re.findall("image image-1, template count-1: the endpoint", caplog.text)) == 1
        server.answer = several
        server.requests.clear()
        after, second = write(server, requests, tmp_path)
    assert [body["seed"] for *_, body in server.requests] == [bad_seed]
    assert problems(after) == {None: 12} and len(set(texts(after).values())) == 12
    assert dict(second.summary())["replies of an earlier run"] == 9
    assert dict(writer.summary())["replies with a problem"] == 3


@pytest.mark.parametrize("bad", [error(429, "later"), Response(502), DROP, HALF, Response(200, b'{"choices": []}')])
def test_a_passing_failure_leaves_no_trace(tmp_path, bad):
    answers = itertools.chain([bad, bad], itertools.repeat(None))
    with serving(lambda body: next(answers) or several(body)) as server:
        replies, _ = write(server, [request()], tmp_path)
    assert problems(replies) == {None: 3} and len(server.requests) == 3


def test_silence(tmp_path):
    with serving(lambda body: HANG) as server:
        replies, _ = write(server, [request()], tmp_path, {"timeout": 0.2, "retries": 1})
    assert problems(replies) == {"the server did not answer in time": 3} and len(server.requests) == 2


def test_too_many_failures_in_a_row_end_the_run(tmp_path):
    requests = (request(number) for number in range(1_000_000))
    with serving(lambda body: error(400, "the model takes no images")) as server:
        with pytest.raises(
            RunError, match="^5 requests in a row have failed, the last one: .*takes no images.* goes on"
        ):
            write(server, requests, tmp_path, {"max_failures": 5, "concurrency": 2})
    assert next(requests).row < 20


def test_failures_that_are_not_in_a_row_do_not(tmp_path):
    odd = {seed_of(7, request(number), 0) for number in range(1, 40, 2)}
    with serving(lambda body: error(400, "no") if body["seed"] in odd else several(body)) as server:
        replies, _ = write(
            server, [request(number) for number in range(40)], tmp_path, {"max_failures": 3, "concurrency": 1}
        )
    assert problems(replies) == {None: 60, "the server answered HTTP 400": 60}


def test_the_same_text_each_time_is_told(tmp_path, caplog):
    with serving(lambda body: completions(["same"] * 3, model="m")) as server:
        requests = [request(number) for number in range(9)]
        _, writer = write(server, requests, tmp_path)
        assert caplog.text.count("the server seems to ignore temperature or seed") == 1
        assert dict(writer.summary())["requests whose replies are all the same"] == 9
        caplog.clear()
        write(server, requests, tmp_path, temperature=0.0, file="greedy.jsonl")
    assert "the same" not in caplog.text


# --- the model


def test_the_only_model_is_taken_and_several_are_named(tmp_path):
    with serving(models=["a", "b"]) as server:
        with pytest.raises(RunError, match="lists 2 models .a, b.; give the served_model"):
            write(server, [request()], tmp_path)
        assert write(server, [request()], tmp_path, {"served_model": "b"})[1].served_model == "b"
        server.models = []
        with pytest.raises(RunError, match="lists no models; give the served_model"):
            write(server, [request()], tmp_path)


def test_a_model_that_the_server_has_not(tmp_path):
    """Also where it repeats whatever name it is given."""
    answers = iter([error(400, "Server is pinned to 'a'"), completion("hi", model="c")])
    with serving(lambda body: next(answers, completions(["hi"], model=body["model"])), models=["a"]) as server:
        for says in ("HTTP 400: Server is pinned to 'a'", "replied as 'judge-1-2026'", "replied as 'b'"):
            with pytest.raises(RunError, match=f"has no model 'b'; it lists a; asked for it, .*{says}"):
                write(server, [request()], tmp_path, {"served_model": "b"})
    assert not (tmp_path / "replies.jsonl").exists()


def test_a_model_that_is_not_listed_but_there(tmp_path, caplog):
    """As by `transformers serve`, which adds the revision."""
    with serving(lambda body: completions(["hi"], model=f"{body['model']}@main"), models=["other"]) as server:
        assert texts(write(server, [request(ks=[0])], tmp_path, {"served_model": "/a"})[0]) == {("image-0", 0): "hi"}
    assert "replied as" not in caplog.text


@pytest.mark.parametrize("status", [404, 405, 500, 501])
def test_a_server_without_a_list_is_asked_for_the_model(tmp_path, status):
    with serving(lambda body: completions(["hi"], model="a"), models=Response(status)) as server:
        assert texts(write(server, [request(ks=[0])], tmp_path, {"served_model": "a"})[0]) == {("image-0", 0): "hi"}
        with pytest.raises(RunError, match="has no model 'b'; it lists none; asked for it, it replied as 'a'"):
            write(server, [request()], tmp_path, {"served_model": "b"})


def test_a_reply_of_another_model_is_told_and_kept_with_its_name(tmp_path, caplog):
    with serving(lambda body: several({**body, "model": "fallback"})) as server:
        replies, writer = write(server, [request(number) for number in range(3)], tmp_path)
    assert {reply.served_model for reply in replies.values()} == {"fallback"}
    assert caplog.text.count("asked for m, a server replied as fallback") == 1
    assert dict(writer.summary())["replies of fallback"] == 9


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (Response(200, b"<html>Hello</html>"), "no list of models"),
        (Response(401), "the variable C3L_API_KEY has no key"),
        (Response(302, headers={"Location": "http://elsewhere"}), "it sends requests elsewhere"),
        (Response(500), "no model can be asked for: .*HTTP 500"),
        (Response(404), "lists no models; give the served_model"),
    ],
)
def test_something_else_at_the_address(tmp_path, models, says):
    with serving(models=models) as server:
        with pytest.raises(RunError, match=says):
            write(server, [request()], tmp_path)
    assert not server.requests


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_nobody_at_the_address(tmp_path):
    with pytest.raises(RunError, match="cannot be reached: .*check the address"):
        write([f"http://127.0.0.1:{free_port()}/v1"], [request()], tmp_path)


# --- going on after an interruption


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """Whatever was written, to the byte: no reply is asked for again, none is missing."""
    requests = [request(number) for number in range(6)]
    with serving() as server:
        whole, _ = write(server, requests, tmp_path)
        content = (tmp_path / "replies.jsonl").read_bytes()
        lines = content.splitlines(keepends=True)
        for kept in (0, len(lines[0]) // 2, len(lines[0]), len(b"".join(lines[:7])) + 30, len(content) - 1):
            (tmp_path / "replies.jsonl").write_bytes(content[:kept])
            server.requests.clear()
            after, _ = write(server, requests, tmp_path)
            there = sum(1 for end in itertools.accumulate(map(len, lines)) if end - 1 <= kept)
            assert sum(body.get("n", 1) for *_, body in server.requests) == 18 - there
            assert problems(after) == {None: 18} and after.keys() == whole.keys()
            assert len(set(texts(after).values())) == 18
            write(server, requests, tmp_path)
            assert sum(body.get("n", 1) for *_, body in server.requests) == 18 - there


def test_an_interruption_keeps_what_is_under_way(tmp_path):
    """Ctrl-C: what has been asked is written, nothing more is asked."""
    begun, interrupted = threading.Event(), threading.Event()

    def answer(body):
        begun.set()
        interrupted.wait(30)
        return several(body)

    def requests():
        yield from (request(number) for number in range(3))
        begun.wait(30)
        interrupted.set()
        raise KeyboardInterrupt

    with serving(answer) as server:
        with pytest.raises(KeyboardInterrupt):
            write(server, requests(), tmp_path, {"concurrency": 2})
    lines = (tmp_path / "replies.jsonl").read_text().splitlines()
    assert len(lines) == 3 * len(server.requests) and 1 <= len(server.requests) <= 3


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({}, 0),
        ({"options": {"concurrency": 1, "timeout": 9, "retries": 0, "prompt_price": 1.0}}, 0),
        ({"temperature": 0.5}, 1),
        ({"top_p": 0.5}, 1),
        ({"seed": 8}, 1),
        ({"options": {"extra_body": {"top_k": 3}}}, 1),
        ({"options": {"served_model": "other"}}, 1),
        ({"requests": [request(text="Another?")]}, 1),
        ({"requests": [request(images=[{"bytes": png(99), "path": None}])]}, 1),
        ({"requests": [request(template=asking(schema=SCHEMA))]}, 1),
        ({"requests": [request(template=asking(id="renamed"))]}, 0),
        ({"requests": [request(ks=range(2))]}, 0),
        ({"requests": [request(ks=range(5))]}, 1),
    ],
    ids=str,
)
def test_what_has_changed_is_asked_anew(tmp_path, change, asked):
    with serving(models=["m", "other"]) as server:
        write(server, [request()], tmp_path, {"served_model": "m"})
        server.requests.clear()
        change = {"requests": [request()], **change}
        options = {"served_model": "m", **change.pop("options", {})}
        write(server, change.pop("requests"), tmp_path, options, **change)
    assert len(server.requests) == asked


def test_the_address_is_no_part_of_a_request(tmp_path):
    for asked in (1, 0):
        with serving() as server:
            write(server, [request()], tmp_path)
        assert len(server.requests) == asked


def test_what_other_processes_have_is_not_asked_for(tmp_path):
    with serving() as server:
        write(server, [request(0)], tmp_path, file="replies-0.jsonl")
        server.requests.clear()
        replies, _ = write(
            server, [request(0), request(1)], tmp_path, file="replies-1.jsonl", others=tmp_path.glob("replies-*.jsonl")
        )
    assert len(server.requests) == 1 and problems(replies) == {None: 6}
    assert len((tmp_path / "replies-1.jsonl").read_text().splitlines()) == 3


def test_requests_are_read_as_they_are_needed(tmp_path):
    read = []

    def requests():
        for number in range(50):
            read.append(number)
            yield request(number, ks=[0])

    with serving() as server:
        options = ServerOptions([server.url], concurrency=2)
        with ServerWriter(options, tmp_path / "replies.jsonl") as writer:
            given = 0
            for _ in writer(requests()):
                given += 1
                assert len(read) <= given + 3 + 4  # what came with it, and what is under way
    assert given == 50


# --- several servers


def test_servers_work_side_by_side(tmp_path):
    together = threading.Barrier(2)

    def answer(body):
        together.wait(30)  # raises unless both are asked at once
        return several(body)

    with serving(answer) as one, serving(answer) as two:
        replies, _ = write([one.url, two.url], [request(number) for number in range(6)], tmp_path, {"concurrency": 1})
    assert problems(replies) == {None: 18} and len(one.requests) == len(two.requests) == 3


def test_a_server_that_dies_is_left_out_and_its_requests_go_to_the_others(tmp_path, caplog):
    dying = serving(None)
    asked = []

    def dies(body):
        if not asked:
            asked.append(1)
            dying._server.shutdown()
            dying._server.socket.close()
        return DROP

    dying.answer = dies
    with dying, serving() as other:
        replies, writer = write([dying.url, other.url], [request(number) for number in range(20)], tmp_path)
    assert problems(replies) == {None: 60} and len(set(texts(replies).values())) == 60
    assert len(other.requests) == 20
    assert len(re.findall("the server .* is left out", caplog.text)) == 1 and dying.url in caplog.text
    assert [name for name, _ in writer.summary() if name.startswith("left out")] == [f"left out: {dying.url}"]


@pytest.mark.parametrize("bad", [Response(503), DROP, HALF])
def test_a_server_that_only_fails_is_left_out_too(tmp_path, bad):
    with serving(lambda body: bad) as failing, serving() as other:
        options = {"retries": 0, "concurrency": 1}
        replies, _ = write([failing.url, other.url], [request(number) for number in range(20)], tmp_path, options)
    assert problems(replies) == {None: 60}
    # No request went there twice.
    assert len(failing.requests) == len({body["seed"] for *_, body in failing.requests}) == 3


def test_when_the_last_server_is_gone_the_run_ends_and_goes_on_later(tmp_path):
    servers = [serving(None), serving(None)]

    def answers(server):
        def answer(body):
            if len(server.requests) < 3:
                return Response(200, several(body).body, {"Connection": "close"})
            if len(server.requests) == 3:
                server._server.shutdown()
                server._server.socket.close()
            return DROP

        return answer

    requests = [request(number) for number in range(20)]
    with servers[0], servers[1]:
        for server in servers:
            server.answer = answers(server)
        with pytest.raises(RunError) as caught:
            write([server.url for server in servers], requests, tmp_path, {"concurrency": 1})
    assert str(caught.value).startswith("no server is left. ") and all(
        server.url in str(caught.value) for server in servers
    )
    kept = len((tmp_path / "replies.jsonl").read_text().splitlines())
    assert kept == 12
    with serving() as server:
        replies, _ = write(server, requests, tmp_path)
    assert problems(replies) == {None: 60} and len(server.requests) == 16


def test_servers_with_different_models(tmp_path):
    with serving(models=["a"]) as one, serving(models=["b"]) as two:
        with pytest.raises(RunError, match=f"different models: a at {one.url}, b at {two.url}"):
            write([one.url, two.url], [request()], tmp_path)


# --- keys, options, sums


def test_the_key_is_nowhere(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("C3L_API_KEY", KEY)
    answers = itertools.cycle([error(400, f"bad {KEY}"), completions([f"your key: {KEY}"] * 3, model=KEY)])
    with serving(lambda body: next(answers)) as server:
        replies, writer = write(server, [request(number) for number in range(4)], tmp_path)
        server.answer = lambda body: error(401, f"Incorrect key: {KEY}")
        with pytest.raises(RunError, match=r"Incorrect key: \[key\]") as caught:
            write(server, [request(9)], tmp_path)
    assert all(headers["Authorization"] == f"Bearer {KEY}" for _, headers, _ in server.requests)
    everything = [caplog.text, repr(replies), repr(writer.summary()), repr(writer.options), repr(caught.value)]
    everything += [path.read_text() for path in tmp_path.iterdir()]
    assert "[key]" in repr(replies) and not [text for text in everything if KEY in text]


def test_sums(tmp_path):
    prices = {"prompt_price": 2.0, "completion_price": 10.0}
    with serving() as server:
        _, writer = write(server, [request(number) for number in range(4)], tmp_path, prices)
    summary = dict(writer.summary())
    assert summary == {
        "requests": 4,
        "replies": 12,
        "replies of an earlier run": 0,
        "replies with a problem": 0,
        "prompt tokens": 40,
        "completion tokens": 36,
        "cost, by the prices given": round(40 * 2 / 1e6 + 36 * 10 / 1e6, 6),
        "replies of m": 12,
    }
    with serving() as server:
        _, writer = write(server, [request(number) for number in range(4)], tmp_path)
    again = dict(writer.summary())
    assert (again["replies of an earlier run"], again["prompt tokens"], again["completion tokens"]) == (12, 40, 36)
    assert not [name for name in again if "cost" in name]


def test_what_is_kept_of_a_reply(tmp_path):
    with serving() as server:
        write(server, [request()], tmp_path)
    kept = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert [entry["k"] for entry in kept] == [0, 1, 2] and len({entry["request"] for entry in kept}) == 3
    assert list(kept[0]) == [
        *("request", "image_id", "template", "k", "text", "refusal", "finish_reason"),
        *("served_model", "prompt_tokens", "completion_tokens", "checksum"),
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_urls": []}, "at least one address"),
        ({"base_urls": "http://h"}, "at least one address|must be http"),
        ({"base_urls": ["h:8000"]}, r"base_url must be http\(s\).*C3L_API_KEY"),
        ({"base_urls": ["http://h", "http://h/v1/"]}, "http://h/v1 more than once"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"max_failures": 0}, "max_failures is 0"),
        ({"prompt_price": -1.0}, "prompt_price is -1.0"),
        ({"timeout": 0}, "timeout must be above 0"),
        ({"extra_body": {"messages": []}}, "extra_body has messages"),
        ({"extra_body": {"seed": 1}}, "extra_body has seed"),
    ],
)
def test_impossible_options(options, says):
    with pytest.raises(ValueError, match=says):
        ServerOptions(**{"base_urls": ["http://h"], **options})
