"""Agreement and a judge: what is asked, how replies are counted, and what becomes of those that do not come."""

import pytest
from datasets import Dataset, Image
from openai_server import OpenAIServer, completions, error
from scored_rows import picture, png

from c3l_hf.generation.in_process import ModelWriter
from c3l_hf.generation.requests import CUT_OFF, Reply
from c3l_hf.generation.server import ServerOptions, ServerWriter
from c3l_hf.scoring.dataset import score_dataset
from c3l_hf.scoring.replies import agreement_signal, judge_signal, same_text, says_yes, token_f1

USER = [{"role": "user", "content": "Is there a dog?"}]


class Parrot:
    """A writer that gives what it is told to, and keeps what it was asked."""

    def __init__(self, *replies):
        self.replies, self.requests = replies, []

    def identity(self):
        return "parrot"

    def __call__(self, requests):
        for request in reversed(list(requests)):  # in whatever order
            self.requests.append(request)
            replies = [self.replies[k % len(self.replies)] for k in request.ks]
            yield request, [one if isinstance(one, Reply) else Reply(one) for one in replies]


def row(question="Is there a dog?", answer="Yes, a dog.", image=0):
    return {"image": picture(image), "question": question, "answer": answer}


def test_texts_are_compared_by_their_words():
    assert same_text("Yes,  a DOG", "yes a dog.") == 1 and same_text("a dog, yes", "yes a dog") == 0
    assert same_text("!", "!") == 1 and same_text("!", "?") == 0
    assert token_f1("two brown dogs", "Two dogs.") == pytest.approx(0.8)
    assert token_f1("", "two") == 0 and token_f1("dog dog", "dog") == pytest.approx(2 / 3)
    assert [says_yes(text, "") for text in ("Yes.", "**No**, it is", "Maybe", "", "yesterday")] == [
        1,
        0,
        None,
        None,
        None,
    ]


def test_agreement_is_the_share_of_replies_that_say_the_same():
    parrot = Parrot("yes a dog", "<think>a cat?</think> Yes, a dog!", "No.", Reply("Yes, a dog", CUT_OFF), "Yes")
    found = agreement_signal(parrot, k=5).score([row(), row(answer="No"), row(image=1), row(question="And a cat?")])
    assert [one["agreement"] for one in found] == pytest.approx([0.6, 0.2, 0.6, 0.6])
    assert found[0]["agreement_turns"][0]["replies"][:3] == ["yes a dog", "Yes, a dog!", "No."]
    assert len(parrot.requests) == 3  # the question about image 0 once, for both of its answers
    request = parrot.requests[-1]
    assert request.messages == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a dog?"}]}
    ]
    assert request.ks == (0, 1, 2, 3, 4) and len({one.image_id for one in parrot.requests}) == 3
    again = Parrot("Yes")
    agreement_signal(again).score([row()])
    assert again.requests[0].image_id == request.image_id  # what is drawn does not depend on other rows


def test_rows_without_an_agreement_have_a_reason():
    answers = [{"role": "assistant", "content": "Yes."}]
    rows = [
        {"images": [picture(0)], "prompt": USER, "completion": answers},
        {"images": [], "prompt": USER, "completion": answers},
        {"images": ["missing.png"], "prompt": USER, "completion": [{"role": "assistant", "content": " "}]},
    ]
    found = agreement_signal(Parrot("yes")).score(rows)
    assert [one["agreement"] for one in found] == [1, None, None]
    assert "no image" in found[1]["agreement_status"] and "empty" in found[2]["agreement_status"]
    broken = agreement_signal(Parrot("yes", Reply("", "the model's predictions are not finite"))).score(rows[:1])
    assert broken[0]["agreement"] is None and broken[0]["agreement_status"] == "the model's predictions are not finite"


def test_turns_are_asked_after_what_came_before_them():
    turns = [("user", "<image>Is there a dog?"), ("assistant", "Yes."), ("user", "And a cat?"), ("assistant", "No.")]
    messages = [{"role": role, "content": text} for role, text in turns]
    parrot = Parrot("yes", "no")
    (found,) = agreement_signal(parrot, k=2).score([{"images": [picture(0)], "messages": messages}])
    assert [turn["value"] for turn in found["agreement_turns"]] == [0.5, 0.5] and found["agreement"] == 0.5
    assert sorted(len(request.messages) for request in parrot.requests) == [1, 3]


def test_a_judge_reads_yes_and_no():
    found = judge_signal(Parrot("Yes.", "no", "Who knows?", "Yes"), k=4).score([row()])
    assert found[0]["judge"] == pytest.approx(2 / 3)
    (found,) = judge_signal(Parrot("Who knows?")).score([row()])
    assert found["judge"] is None and found["judge_status"] == "no reply begins with yes or no"
    parrot = Parrot("7 of 10")
    signal = judge_signal(parrot, text="Grade {{ answer }}", read=lambda reply, answer: float(reply.split()[0]))
    assert signal.score([row()])[0]["judge"] == 7
    assert parrot.requests[0].messages[-1]["content"][-1]["text"] == "Grade Yes, a dog."
    other = judge_signal(parrot, text="Grade {{ answer }}", read=lambda reply, answer: 1.0)
    assert signal.fingerprint != other.fingerprint  # two functions of one name


def test_options_that_cannot_be():
    with pytest.raises(ValueError, match="k is 0"):
        agreement_signal(Parrot("yes"), k=0)
    with pytest.raises(ValueError, match="would ask the same"):
        judge_signal(Parrot("yes"), text="Is it?")
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        agreement_signal(Parrot("yes"), image_folder="nowhere")


def test_a_model_in_this_process(llava):
    signal = agreement_signal(ModelWriter(*llava, seed=3), k=2, max_new_tokens=4)
    together = signal.score([row(), row(image=1), row(question="How many cats?")])
    assert together[0] == signal.score([row()])[0]  # whatever is asked beside it
    assert all(one["agreement_status"] == "ok" for one in together)
    others = {agreement_signal(ModelWriter(*llava, seed=seed), k=2, max_new_tokens=4).fingerprint for seed in (3, 4)}
    assert len(others) == 2 and signal.fingerprint in others


def test_what_no_server_answered_is_asked_again_and_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    broken = True

    def answer(body):
        text = body["messages"][-1]["content"][-1]["text"]
        return error(500, "no") if broken and "cat" in text else completions(["Yes."] * body.get("n", 1), model="m")

    rows = [{"image": {"bytes": png(0), "path": None}, "question": q, "answer": "yes"} for q in ("A dog?", "A cat?")]
    dataset = Dataset.from_list(rows).cast_column("image", Image())

    def scored(server):
        options = ServerOptions([server.url], retry_wait=0, retries=0, concurrency=1)
        with ServerWriter(options, tmp_path / "replies.jsonl", temperature=0.0) as writer:
            return score_dataset(dataset, agreement_signal(writer, k=2), cache_dir=tmp_path / "cache")

    with OpenAIServer(answer, ("m",)) as server:
        first = scored(server)
        assert first["agreement"][:] == [1, None] and "HTTP 500" in first["agreement_status"][1]
        broken, before = False, len(server.requests)
        assert scored(server)["agreement"][:] == [1, 1]
        assert len(server.requests) == before + 1
        assert scored(server)["agreement"][:] == [1, 1] and len(server.requests) == before + 1
