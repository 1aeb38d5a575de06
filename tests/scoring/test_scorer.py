"""The scorer on rows, batches and datasets, good and bad ones."""

import copy
import pickle
import shutil
import weakref

import multiprocess
import numpy as np
import pytest
import torch
from accelerate import disk_offload
from closures import loaded_by
from datasets import Dataset, Features, Image, List, Value, load_from_disk
from datasets.fingerprint import Hasher
from scored_rows import assert_same, assert_same_turn, picture, png
from tiny_models import tiny_llava

from c3l_hf.data.schema import PAIR_FEATURES, SCORE_COLUMNS, SCORE_FEATURES, SCORES, TOKEN_COLUMNS
from c3l_hf.models.loading import digest_weights
from c3l_hf.scoring import blind, passes, score_code
from c3l_hf.scoring import scorer as i2c
from c3l_hf.scoring.formulas import scores_from_logprobs
from c3l_hf.scoring.scorer import DEFAULT_RANKING, I2CScorer

TEXTS = [
    ("Is there a dog?", "Yes, there is."),
    ("What colour is the background?", "red"),
    ("How many?", "Two horses and a cat, next to an apple."),
    ("Is there a dog?", "Yes, there is."),
    ("Where is the car?", "It is at the top left, and there is a dög 日."),
]


def row(question, answer, image):
    prompt, completion = (
        [{"role": role, "content": text}] for role, text in (("user", question), ("assistant", answer))
    )
    return {"images": [image], "prompt": prompt, "completion": completion}


@pytest.fixture(scope="module")
def dataset():
    features = Features({name: PAIR_FEATURES[name] for name in ("images", "prompt", "completion")})
    return Dataset.from_list([row(*text, picture(i // 2)) for i, text in enumerate(TEXTS)], features=features)


@pytest.fixture(scope="module")
def scorer(llava):
    return I2CScorer(*llava, max_tokens=100)


# --- rows and batches


def test_row(scorer, dataset):
    result = scorer(dataset[2])
    assert list(result) == list(SCORE_COLUMNS) and result["i2c_status"] == "ok"
    assert "".join(result["answer_tokens"]) == " " + TEXTS[2][1]
    assert len({len(result[name]) for name in TOKEN_COLUMNS}) == 1
    expected = scores_from_logprobs(
        result["logprob_per_token"], result["logprob_blind_per_token"], result["token_kl_per_token"]
    )
    assert {name: result[name] for name in SCORES} == expected
    assert result["i2c"] == result[DEFAULT_RANKING]
    assert all(kl > 0 for kl in result["token_kl_per_token"])
    assert max(result["logprob_per_token"]) < 0


@pytest.mark.parametrize("name", SCORES)
def test_ranking_names_the_score(llava, dataset, name):
    result = I2CScorer(*llava, ranking=name)(dataset[0])
    assert result["i2c"] == result[name]


def test_batch_equals_rows(scorer, dataset):
    batch = scorer(dataset[:])
    assert_same([{name: batch[name][i] for name in batch} for i in range(len(dataset))], [scorer(r) for r in dataset])


def test_order_and_batch_size_do_not_matter(family, dataset):
    rows = list(dataset)
    base = I2CScorer(*family, max_tokens=1, path="plain").score(rows)
    assert all(result["i2c_status"] == "ok" for result in base)
    for size in (60, 150, 4096):
        for path in ("auto", "plain"):
            assert_same(I2CScorer(*family, max_tokens=size, path=path).score(rows), base)
    assert_same(I2CScorer(*family).score(rows[::-1])[::-1], base)


def test_map_in_both_forms(scorer, dataset):
    features = Features({**dataset.features, **scorer.features})
    unbatched = dataset.map(scorer, features=features)
    batched = dataset.map(scorer, batched=True, batch_size=4, features=features)
    assert batched.features == unbatched.features == features
    names = list(SCORE_COLUMNS)
    assert_same(list(batched.select_columns(names)), list(unbatched.select_columns(names)))
    streamed = dataset.to_iterable_dataset().map(scorer, batched=True, batch_size=2)
    assert_same([{name: r[name] for name in names} for r in streamed], [scorer(r) for r in dataset])


def test_map_does_not_decode_pictures(scorer, monkeypatch):
    """`datasets` would decode all of a batch together, end at a damaged one, and write all of them anew."""
    pictures = [{"bytes": png(number), "path": f"{number}.png"} for number in range(9)]
    pictures[4] = {"bytes": b"damaged", "path": "4.png"}
    alive, most = weakref.WeakValueDictionary(), []
    opening = blind.open_image

    def counted(value):
        alive[len(most)] = image = opening(value)
        most.append(len(alive))
        return image

    monkeypatch.setattr(blind, "open_image", counted)
    monkeypatch.setattr(Image, "decode_example", lambda *_, **__: pytest.fail("decoded"))
    texts = {"question": ["What is it?"] * 9, "answer": ["A dog."] * 9}
    for name, kind in (("image", Image()), ("images", List(Image()))):
        values = pictures if name == "image" else [[value] for value in pictures]
        rows = Dataset.from_dict({name: values, **texts}).cast_column(name, kind)
        for options in ({"batched": True, "batch_size": 9}, {}):
            mapped = rows.map(scorer, **options, features=Features({**rows.features, **scorer.features}))
            stored = mapped.with_format("arrow")[:]
            assert [status == "ok" for status in stored["i2c_status"].to_pylist()] == [True] * 4 + [False] + [True] * 4
            assert stored[name].to_pylist() == rows.with_format("arrow")[:][name].to_pylist()
    assert len(most) == 32 and max(most) == 1


def test_what_a_function_before_has_made_of_a_column_counts(scorer, dataset):
    """A user's own function may look at the columns of a batch, and put others in their places."""

    def other(batch):
        batch["images"] = [[picture(7)] for _ in batch["images"]]
        return scorer(batch)

    names = list(SCORE_COLUMNS)
    rows = dataset.select(range(2))
    features = Features({**rows.features, **scorer.features})
    (own, _) = rows.map(other, batched=True, features=features).select_columns(names)
    assert_same([own], scorer.score([row(*TEXTS[0], picture(7))]))


def test_images_as_datasets_store_them(scorer, tmp_path):
    picture(1).save(tmp_path / "a.png")
    question, answer = TEXTS[0]
    images = [picture(1), {"bytes": png(1), "path": None}, {"bytes": None, "path": str(tmp_path / "a.png")}]
    results = scorer.score([row(question, answer, image) for image in images])
    assert_same(results, [results[0]] * 3)
    encoded = Dataset.from_list([{"image": png(1), "question": question, "answer": answer}]).cast_column(
        "image", Image(decode=False)
    )
    assert_same([scorer(encoded[0])], results[:1])


def test_layouts_give_the_same_scores(scorer):
    question, answer = TEXTS[0]
    user, assistant = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    rows = [
        row(question, answer, picture(0)),
        {"messages": [user, assistant], "image": picture(0)},
        {"question": question, "answer": answer, "image": picture(0)},
        {
            "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}],
            "image": picture(0),
        },
    ]
    results = [scorer(r) for r in rows]
    assert_same(results, [results[0]] * len(rows))
    as_batches = [scorer({name: [value] for name, value in r.items()}) for r in rows]
    assert_same([{name: values[0] for name, values in b.items()} for b in as_batches], results)


def test_every_turn_has_its_own_scores(family):
    scorer = I2CScorer(*family)
    said = [
        (role, text) for question, answer in TEXTS[:3] for role, text in (("user", question), ("assistant", answer))
    ]
    messages = [{"role": role, "content": text} for role, text in said]
    result = scorer({"messages": messages, "image": picture(0)})
    generated = {"images": [picture(0)], "prompt": messages[:1], "completion": messages[1:]}
    assert_same([scorer(generated)], [result])  # as generation writes a conversation
    turns = [scorer({"messages": messages[: 2 * n + 2], "image": picture(0)})["turns"][-1] for n in range(3)]
    for found, expected in zip(result["turns"], turns, strict=True):
        assert_same_turn(found, expected)
    single = scorer(row(*TEXTS[0], picture(0)))
    expected = {name: single[name] for name in ("i2c", *SCORES)}
    assert_same_turn(result["turns"][0], expected | {"tokens": len(single["answer_tokens"]), "status": "ok"})
    ends = np.cumsum([turn["tokens"] for turn in result["turns"]])
    assert ends[-1] == len(result["answer_tokens"])
    lists = [result[name] for name in ("logprob_per_token", "logprob_blind_per_token", "token_kl_per_token")]
    assert {name: result[name] for name in SCORES} == scores_from_logprobs(*lists)
    for turn, begin, end in zip(result["turns"], [0, *ends], ends):
        assert {name: turn[name] for name in SCORES} == scores_from_logprobs(*(values[begin:end] for values in lists))


def test_turns_that_cannot_be_scored_leave_the_others(family):
    """The first comes before the picture, the third is empty; the others are scored as they are alone."""
    scorer = I2CScorer(*family)
    hello = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Send a picture."}]
    seen = [{"role": "user", "content": f"<image>\n{TEXTS[0][0]}"}, {"role": "assistant", "content": TEXTS[0][1]}]
    empty = [{"role": "user", "content": TEXTS[1][0]}, {"role": "assistant", "content": " "}]
    whole = scorer({"messages": hello + seen + empty, "images": [picture(0)]})
    prompt = [*hello, seen[0]]
    alone = scorer({"prompt": prompt, "completion": seen[1:], "images": [picture(0)]})
    assert whole["i2c_status"] == alone["i2c_status"] == "ok"
    statuses = ["there is no image before the answer", "ok", "the answer is empty"]
    assert [turn["status"] for turn in whole["turns"]] == statuses
    assert [turn["tokens"] for turn in whole["turns"]] == [0, len(alone["answer_tokens"]), 0]
    assert all(whole["turns"][n][name] is None for n in (0, 2) for name in ("i2c", *SCORES))
    assert_same_turn(whole["turns"][1], alone["turns"][0])
    assert_same([{**whole, "turns": []}], [{**alone, "turns": []}])
    unplaced = scorer({"messages": hello + empty, "images": [picture(0)]})
    assert unplaced["i2c_status"] == "ok" and [turn["status"] for turn in unplaced["turns"]] == [
        "ok",
        "the answer is empty",
    ]
    nothing = scorer({"messages": [*hello, *empty[:1], {**empty[1], "content": None}], "images": None})
    reasons = ("the row has no image (column images)", "the answer is not a text but null")
    assert nothing["i2c_status"] == "; ".join(f"assistant turn {n}: {reason}" for n, reason in enumerate(reasons, 1))
    assert nothing["turns"] is None and nothing["pmi"] is None


def test_several_images(family):
    scorer = I2CScorer(*family)
    question, answer = TEXTS[0]
    pictures = [picture(0), picture(1)]
    rows = [{"images": images, "question": question, "answer": answer} for images in (pictures, pictures[::-1])]
    one, other = scorer.score(rows)
    assert one["i2c_status"] == other["i2c_status"] == "ok"
    assert abs(one["logprob"] - other["logprob"]) > 1e-4  # their order counts
    assert one["logprob_blind"] == pytest.approx(other["logprob_blind"], rel=1e-6)
    assert_same([scorer(r) for r in rows], [one, other])


def test_empty_batch(scorer):
    result = scorer({"images": [], "prompt": [], "completion": []})
    assert result == {name: [] for name in SCORE_COLUMNS}


# --- bad rows


BAD = {
    "the answer is empty": row("What?", "", picture(0)),
    "the row has no image": {**row("What?", "A dog.", None), "images": []},
    "prompt is null": {"images": [picture(0)], "prompt": None, "completion": None},
    "control token '<image>'": row("What?", "A dog, <image>.", picture(0)),
    "the messages have places for 2 images": row("What are <image> and <image>?", "Dogs.", picture(0)),
    "control token '</s>'": row("What?", "A dog.</s>", picture(0)),
    "cannot be read": row("What?", "A dog.", {"bytes": png(0)[:150], "path": None}),
    "image /nowhere.png cannot be read": row("What?", "A dog.", {"bytes": None, "path": "/nowhere.png"}),
    "the model takes at most 512": row("What?", "a dog " * 400, picture(0)),
    "there is no user message before the answer": {
        **row("?", "A dog.", picture(0)),
        "prompt": row("?", "A cat.", picture(0))["completion"],
    },
}


def test_bad_rows_keep_their_place(scorer):
    good = [row(*TEXTS[i], picture(i)) for i in range(3)]
    rows = [good[0], *BAD.values(), good[1], good[2]]
    results = scorer.score(rows)
    assert_same([results[0], *results[-2:]], scorer.score(good))
    for reason, result in zip(BAD, results[1:-2]):
        assert reason in result["i2c_status"]
        assert list(result) == list(SCORE_COLUMNS)
        assert all(result[name] is None for name in SCORE_COLUMNS if name != "i2c_status")
    columns = {name: [r[name] for r in rows] for name in rows[0]}
    assert_same([{n: v[i] for n, v in scorer(columns).items()} for i in range(len(rows))], results)


def test_shard_of_bad_rows_has_the_same_types(scorer, dataset):
    bad = dataset.select([0, 0]).map(
        lambda _: {"completion": [{"role": "assistant", "content": " "}]}, features=dataset.features
    )
    scored = bad.map(scorer, batched=True, features=Features({**bad.features, **scorer.features}))
    assert {name: scored.features[name] for name in SCORE_COLUMNS} == dict(SCORE_FEATURES)
    assert scored["i2c"][:] == [None, None] and scored.features["answer_tokens"] == List(Value("string"))


@pytest.mark.parametrize("format", ["numpy", "torch", "pandas", "arrow"])
def test_formats_of_arrays_are_refused(scorer, dataset, format):
    """`datasets` would say only that a function gave something that it does not know."""
    with pytest.raises(ValueError, match=r"read as Python values: dataset.with_format\(None\)"):
        dataset.with_format(format).map(scorer, batched=True)


def test_wrong_columns_end_the_call(scorer):
    with pytest.raises(ValueError, match="in the columns image, caption; accepted are: prompt"):
        scorer({"image": picture(0), "caption": "A dog."})


def test_numbers_that_are_not_finite(llava):
    model, processor = llava
    broken = copy.deepcopy(model)
    scorer = I2CScorer(broken, processor)
    torch.nn.init.constant_(broken.model.language_model.norm.weight, float("nan"))
    result = scorer(row(*TEXTS[0], picture(0)))
    assert result["i2c"] is None and "not finite" in result["i2c_status"]


def test_bad_options(llava):
    model, processor = llava
    with pytest.raises(ValueError, match="ranking is 'kl'; it must be one of answer_kl"):
        I2CScorer(model, processor, ranking="kl")
    with pytest.raises(ValueError, match="max_tokens is 0"):
        I2CScorer(model, processor, max_tokens=0)
    with pytest.raises(ValueError, match="blind is 'none'; it must be one of drop, blank, noise, shuffle"):
        I2CScorer(model, processor, blind="none")
    for options in ({"blind": "shuffle"}, {"blind_images": [picture(0)]}):
        with pytest.raises(ValueError, match="needs blind_images"):
            I2CScorer(model, processor, **options)
    with pytest.raises(ValueError, match="image_folder /nowhere is not a folder"):
        I2CScorer(model, processor, image_folder="/nowhere")
    without = copy.copy(processor)
    without.chat_template = None
    with pytest.raises(ValueError, match="LlavaProcessor has no chat template"):
        I2CScorer(model, without)
    with pytest.raises(OSError, match="nowhere"):
        I2CScorer.from_pretrained("./nowhere/at/all")


def test_model_stays_as_it_was(llava, dataset):
    model, processor = tiny_llava()
    model.model.language_model.config.attention_dropout = 0.5
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    assert_same([I2CScorer(model, processor)(dataset[0])], [I2CScorer(*llava)(dataset[0])])  # no dropout
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# --- loading, fingerprints and other processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model, processor = tiny_llava()
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def test_from_pretrained(folder, scorer, dataset):
    loaded = I2CScorer.from_pretrained(folder, max_tokens=100)
    assert_same(loaded.score(list(dataset)), scorer.score(list(dataset)))
    half = I2CScorer.from_pretrained(folder, dtype="bfloat16", ranking="logprob")
    assert half(dataset[0])["i2c"] == pytest.approx(scorer(dataset[0])["logprob"], abs=0.2)


def test_fingerprint_differs_with_every_part(llava, folder, monkeypatch):
    model, processor = llava
    other_template = copy.copy(processor)
    other_template.chat_template = processor.chat_template.replace("USER", "Human")
    other_weights, _ = tiny_llava()
    other_weights.model.vision_tower.post_layernorm.bias.data[3] += 1e-3
    scorers = {
        "base": I2CScorer(model, processor),
        "ranking": I2CScorer(model, processor, ranking="token_kl"),
        "max tokens": I2CScorer(model, processor, max_tokens=300),
        "path": I2CScorer(model, processor, path="plain"),
        "blind": I2CScorer(model, processor, blind="blank"),
        "blind images": I2CScorer(model, processor, blind="shuffle", blind_images=[picture(8), picture(9)]),
        "other blind images": I2CScorer(model, processor, blind="shuffle", blind_images=[picture(7), picture(9)]),
        "image folder": I2CScorer(model, processor, image_folder="."),
        "template": I2CScorer(model, other_template),
        "one weight": I2CScorer(other_weights, processor),
        "seed": I2CScorer(tiny_llava(seed=1)[0], processor),
        "dtype": I2CScorer(copy.deepcopy(model).bfloat16(), processor),
    }
    hashes = {name: Hasher.hash(scorer) for name, scorer in scorers.items()}
    monkeypatch.setattr(i2c, "code_version", lambda: "another version")
    hashes["code"] = Hasher.hash(I2CScorer(model, processor))
    assert len(set(hashes.values())) == len(hashes), hashes
    monkeypatch.undo()
    assert Hasher.hash(I2CScorer(*tiny_llava())) == hashes["base"]


def test_scores_are_known_by_the_code_they_come_from():
    """Of all modules of ours that the scorer loads, but those that find models, call others, or choose a path."""
    harmless = {"data.worlds", "files.unreadable", "models.checks", "models.loading", "models.rounding"}
    loaded = {name.removeprefix("c3l_hf.") for name in loaded_by("c3l_hf.scoring.scorer")} - harmless
    rooms = {name for name in loaded if not name.startswith(("common.", "_compat"))}
    own = {"scoring.scorer", "scoring.score_code"}
    made_by = {module.__name__.removeprefix("c3l_hf.") for module in score_code.MODULES}
    assert rooms | {"common.thoughts"} == made_by | own


def test_a_model_from_the_hub(folder, dataset, tmp_path, monkeypatch):
    """By its id, from the Hub's cache: the scores, and a fingerprint by its commit, whatever the branch says later."""
    repository = tmp_path / "hub" / "models--user--tiny"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(repository.parent))
    monkeypatch.setattr(i2c, "digest_weights", lambda *_: pytest.fail("the weights were read"))
    main = I2CScorer.from_pretrained("user/tiny")
    main_fingerprint = main.fingerprint
    (repository / "refs" / "main").write_text("b" * 40)
    moved = I2CScorer.from_pretrained("user/tiny")
    named = I2CScorer.from_pretrained("user/tiny", revision="a" * 40)
    assert main_fingerprint == named.fingerprint != moved.fingerprint
    rows = dataset.select([4]).to_list()
    assert_same(main.score(rows), I2CScorer.from_pretrained(folder).score(rows))


def test_a_repository_that_does_not_exist():
    with pytest.raises(OSError, match="user/nothing"):
        I2CScorer.from_pretrained("user/nothing")


def test_pickled_weights_are_not_loaded(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(tiny_llava()[0].state_dict(), tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        I2CScorer.from_pretrained(tmp_path / "model")


def test_offloaded_weights_count_too(tmp_path):
    model, _ = tiny_llava()
    whole = digest_weights(model)
    disk_offload(model, tmp_path, execution_device="cpu")
    assert model.lm_head.weight.device.type == "meta" and digest_weights(model) == whole


def test_fingerprint_of_a_folder_is_its_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(i2c, "digest_weights", lambda *_: pytest.fail("the weights were read"))
    copied = tmp_path / "elsewhere"
    shutil.copytree(folder, copied)
    before = [I2CScorer.from_pretrained(path).fingerprint for path in (folder, copied)]
    assert before[0] == before[1]
    tiny_llava(seed=1)[0].save_pretrained(copied)
    assert I2CScorer.from_pretrained(copied).fingerprint != before[0]


def test_fingerprint_of_a_model_passed_in_is_its_weights(folder):
    # a model that came from the Hub and was trained since still has its commit
    hashes = []
    for change in (0, 1e-3):
        model, processor = tiny_llava()
        model.config._commit_hash = "a" * 40
        model.lm_head.weight.data[0, 0] += change
        hashes.append(Hasher.hash(I2CScorer(model, processor)))
    assert hashes[0] != hashes[1]


def test_second_call_comes_from_the_cache(llava, dataset, tmp_path, monkeypatch):
    dataset.save_to_disk(tmp_path)
    first = load_from_disk(tmp_path).map(I2CScorer(*llava), batched=True)
    monkeypatch.setattr(I2CScorer, "score", lambda *_: pytest.fail("scored again"))
    second = load_from_disk(tmp_path).map(I2CScorer(*tiny_llava()), batched=True)
    assert second["i2c"][:] == first["i2c"][:]


def test_other_processes_load_the_model_themselves(folder, scorer, dataset):
    loaded = I2CScorer.from_pretrained(folder, max_tokens=100)
    content = pickle.dumps(loaded)
    assert len(content) < 2000
    arrived = pickle.loads(content)
    assert arrived.fingerprint == loaded.fingerprint
    assert_same([arrived(dataset[0])], [scorer(dataset[0])])


def test_model_object_cannot_go_to_another_process(scorer, dataset):
    arrived = pickle.loads(pickle.dumps(scorer))
    with pytest.raises(RuntimeError, match="use I2CScorer.from_pretrained"):
        arrived(dataset[0])


@pytest.fixture
def spawn():
    """Processes that start afresh: a forked one dies in the threads that PyTorch has started in its parent."""
    before = multiprocess.get_start_method()
    multiprocess.set_start_method("spawn", force=True)
    yield
    multiprocess.set_start_method(before, force=True)


@pytest.mark.slow
def test_num_proc(folder, scorer, dataset, spawn):
    loaded = I2CScorer.from_pretrained(folder, max_tokens=100)
    scored = dataset.map(loaded, batched=True, with_rank=True, num_proc=2, remove_columns=dataset.column_names)
    assert_same(list(scored), scorer.score(list(dataset)))


def test_each_process_loads_its_model_on_its_own_accelerator(folder, monkeypatch):
    """Eight at once on the first one would not fit."""
    scorer = pickle.loads(pickle.dumps(I2CScorer.from_pretrained(folder)))
    asked = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 8)
    monkeypatch.setattr(i2c, "load", lambda source: asked.append(source.device) or tiny_llava())
    scorer.to_accelerator(11)
    assert asked == ["cuda:3"] and scorer._model is not None


@pytest.mark.parametrize(("dtype", "tokens"), [(torch.float32, 1024), (torch.bfloat16, 4096)])
def test_size_of_a_pass_on_a_cpu(dtype, tokens, monkeypatch):
    model, processor = tiny_llava()
    scorer, given = I2CScorer(model.to(dtype), processor), I2CScorer(model, processor, max_tokens=300)
    seen = []
    real = passes.answer_logprobs
    monkeypatch.setattr(passes, "answer_logprobs", lambda *a, **k: seen.append(k["max_tokens"]) or real(*a, **k))
    for one in (scorer, given):
        assert one(row(*TEXTS[0], picture(0)))["i2c_status"] == "ok"
    assert seen == [tokens, 300]
