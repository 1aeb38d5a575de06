"""Generation of pairs: the same whatever the batches, sampled from the model's distribution, nothing lost."""

import copy
import io
import threading
from dataclasses import replace

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from scipy.stats import chisquare
from tiny_models import tiny_llava

from c3l_hf.common.errors import RunError
from c3l_hf.data.schema import PAIR_TABLE_FEATURES
from c3l_hf.data.status import generation_counts
from c3l_hf.data.turns import to_turns
from c3l_hf.generation.in_process import ModelWriter
from c3l_hf.generation.pairs import PairGenerationConfig, generate_pairs, generate_tables
from c3l_hf.generation.requests import Reply, Request, uniforms_of
from c3l_hf.generation.sampling import TextSampler
from c3l_hf.models.encoding import collate, encode_prompt, encode_row
from c3l_hf.prompts.reply_forms import ReplyForm
from c3l_hf.prompts.templates import Template, TemplateSet
from c3l_hf.scenes.templates import TEMPLATES

TYPES = ("presence", "count", "colour")
TEXTS = (
    "Question: Is there a dog? Answer: Yes.",
    "Question: How many cats? Answer: two",
    "Q: Where is the car? A: It is at the top left.",
    "hello",
)


def picture(number: int, size: int = 32) -> PIL.Image.Image:
    generator = np.random.default_rng(number)
    return PIL.Image.fromarray(generator.integers(0, 255, (size, size, 3), dtype=np.uint8))


def png(number: int) -> bytes:
    file = io.BytesIO()
    picture(number).save(file, format="PNG")
    return file.getvalue()


def dataset_of(contents: list[bytes | None], image_ids: list[str] | None = None) -> Dataset:
    rows = [None if content is None else {"bytes": content, "path": None} for content in contents]
    columns = {"image": rows} | ({} if image_ids is None else {"image_id": image_ids})
    features = {"image": Image()} | ({} if image_ids is None else {"image_id": Value("string")})
    return Dataset.from_dict(columns, features=Features(features))


def by_pair(dataset: Dataset) -> dict[str, tuple]:
    columns = dataset.remove_columns("images")
    return {row["pair_id"]: tuple(map(str, row.values())) for row in columns}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)


@pytest.fixture(scope="module")
def speaker():
    """A tiny LLaVA that has learnt, roughly, to write one of `TEXTS` for the templates of `TYPES`."""
    model, processor = tiny_llava()
    rows, labels = [], []
    for template in (template for type in TYPES for template in TEMPLATES.of_type(type)):
        for text in TEXTS:
            row = encode_row(processor, [{"role": "user", "content": template.user}], text, [picture(0)])
            end = row.answer.stop + 1  # with the end-of-turn token
            label = torch.full_like(row.inputs["input_ids"], -100)
            label[0, row.answer.start : end] = row.inputs["input_ids"][0, row.answer.start : end]
            rows.append({name: tensor for name, tensor in row.inputs.items()})
            labels.append(label)
    batch = collate(processor, rows)
    length = batch["input_ids"].shape[1]
    batch["labels"] = torch.cat(
        [torch.nn.functional.pad(label, (0, length - label.shape[1]), value=-100) for label in labels]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(70):
        chosen = torch.randperm(len(rows), generator=generator)[:8]
        model(**{name: tensor[chosen] for name, tensor in batch.items()}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), processor


@pytest.fixture(scope="module")
def config():
    return PairGenerationConfig(
        "scenes", types=TYPES, pairs_per_image=4, types_per_image=2, max_new_tokens=40, batch_size=16
    )


def changed(config, **options):
    return replace(config, **options)


def test_rows_have_pairs_in_image_order_and_counts_add_up(speaker, config):
    pairs = generate_pairs(dataset_of([png(i) for i in range(6)]), *speaker, config, progress=False)
    assert pairs["pair_id"][:] == [f"{i:06d}/{k}" for i in range(6) for k in range(4)]
    counts = generation_counts(pairs)
    assert counts["pairs"] == len(pairs) == 24 == sum(counts.values()) - counts["pairs"]
    assert counts["ok"] >= 8, "the tiny model should write mostly pairs"
    for row in pairs:
        assert row["type"] == TEMPLATES.get(row["template"]).type in TYPES
        ok = row["generation_status"] == "ok"
        assert (row["prompt"] is not None) == (row["completion"] is not None) == ok
        if ok:
            question, answer = row["prompt"][0], row["completion"][0]
            assert (question["role"], answer["role"]) == ("user", "assistant")
            assert question["content"] in row["raw"] and answer["content"] in row["raw"]
            assert "</s>" not in row["raw"]


def test_batches_order_and_other_images_do_not_matter(speaker, config):
    contents, image_ids = [png(i) for i in range(5)], list("abcde")
    pairs = generate_pairs(dataset_of(contents, image_ids), *speaker, config, progress=False)
    expected = by_pair(pairs)
    assert len(set(pairs["raw"])) > 3, "all texts alike: nothing would be tested"
    for batch_size in (1, 3, 100):
        options = changed(config, batch_size=batch_size)
        assert by_pair(generate_pairs(dataset_of(contents, image_ids), *speaker, options, progress=False)) == expected
    backwards = dataset_of(contents[::-1], image_ids[::-1]).select([0, 2, 3])
    for pair_id, row in by_pair(generate_pairs(backwards, *speaker, config, progress=False)).items():
        assert row == expected[pair_id]


def test_seed_changes_the_texts(speaker, config):
    images = dataset_of([png(i) for i in range(3)])
    first, again, other = (
        generate_pairs(images, *speaker, changed(config, seed=seed), progress=False)["raw"][:] for seed in (0, 0, 1)
    )
    assert first == again != other
    request = next(config.asked(images)).request
    assert not np.array_equal(uniforms_of(0, request), uniforms_of(1, request))


@pytest.mark.parametrize("column", ["image", "images"])
def test_tables_are_the_pairs_without_their_images(speaker, config, column):
    contents = [png(0), b"this is not an image", png(1), None, png(2)]
    images = dataset_of(contents, list("abcde"))
    if column == "images":
        lists = [[image] for image in images.cast_column("image", Image(decode=False))["image"]]
        images = images.remove_columns("image").add_column("images", lists, feature=List(Image()))
    expected = generate_pairs(images, *speaker, config, progress=False).remove_columns("images")
    tables = list(generate_tables(images, config.writer(*speaker), config, progress=False))
    assert all(table.schema.equals(PAIR_TABLE_FEATURES.arrow_schema) for table in tables)
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["image_row"] for row in rows] == [number for number in range(5) for _ in range(4)]
    assert [{name: row[name] for name in row if name != "image_row"} for row in rows] == list(expected)
    # In parts, as a run has them.
    parts = [
        row
        for first, last in ((0, 2), (2, 5))
        for table in generate_tables(
            images.select(range(first, last)), config.writer(*speaker), config, first_row=first, progress=False
        )
        for row in table.to_pylist()
    ]
    assert parts == rows


def test_row_numbers_are_no_ids_of_a_part(speaker, config):
    with pytest.raises(ValueError, match="first_row is 5, and the images have no column image_id"):
        generate_tables(dataset_of([png(0)]), config.writer(*speaker), config, first_row=5)


def test_model_and_torch_are_as_they_were_between_two_tables(speaker, config):
    model, processor = speaker
    own = model.generation_config
    for _ in generate_tables(dataset_of([png(0)]), config.writer(model, processor), config, progress=False):
        assert model.generation_config is own and not torch.is_inference_mode_enabled()
        assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_prompts_are_encoded_while_the_model_writes(speaker, config, monkeypatch):
    """By events, not by the clock: the model waits until the next prompt has been encoded."""
    images = dataset_of([png(i) for i in range(6)])
    total = 12  # of two types about each image
    ready = [threading.Event() for _ in range(total)]
    encoded, written = [], []
    real_encode, real_write = ModelWriter._encode, TextSampler.write

    def encode(self, request):
        result = real_encode(self, request)
        assert len(encoded) <= len(written) + 9  # no more than some are ready
        ready[len(encoded)].set()
        encoded.append(threading.current_thread().name)
        return result

    def write(self, prompts):
        for prompt in prompts:
            if len(written) + 1 < total:
                assert ready[len(written) + 1].wait(30), "nothing was encoded ahead"
            written.append(threading.current_thread().name)
            yield from real_write(self, [prompt])

    expected = generate_pairs(images, *speaker, config, progress=False)["raw"][:]
    monkeypatch.setattr(ModelWriter, "_encode", encode)
    monkeypatch.setattr(TextSampler, "write", write)
    tables = generate_tables(images, config.writer(*speaker), config, progress=False)
    assert [row["raw"] for table in tables for row in table.to_pylist()] == expected
    assert set(encoded) == {"ahead"} and len(set(written)) == 1 and len(encoded) == len(written) == total


def test_an_error_of_the_model_leaves_no_thread(speaker, config, monkeypatch):
    def write(self, prompts):
        next(iter(prompts))
        raise MemoryError("full")
        yield

    monkeypatch.setattr(TextSampler, "write", write)
    with pytest.raises(MemoryError, match="full"):
        generate_pairs(dataset_of([png(i) for i in range(6)]), *speaker, config, progress=False)
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


@pytest.mark.parametrize("batch_size", [1, 16])  # plain; with the prompt shared by the rows
def test_texts_are_those_of_a_step_by_step_reference(speaker, config, batch_size):
    model, processor = speaker
    options = changed(config, batch_size=batch_size, temperature=0.7)
    pairs = generate_pairs(dataset_of([png(3)], ["x"]), model, processor, options, progress=False)
    for k, row in enumerate(pairs):
        prompt = [{"role": "user", "content": TEMPLATES.get(row["template"]).user}]
        inputs = encode_prompt(processor, prompt, [picture(3)])
        request = Request(0, "x", TEMPLATES.get(row["template"]), (k,), [], [], options.max_new_tokens)
        uniforms, ids, written = uniforms_of(options.seed, request)[0], inputs["input_ids"], []
        for step in range(options.max_new_tokens):
            with torch.no_grad():
                logits = model(
                    input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=inputs["pixel_values"]
                ).logits[0, -1]
            probabilities = np.exp(logits.double().numpy() / 0.7)
            cumulative = np.cumsum(probabilities / probabilities.sum())
            token = int(np.argmax(cumulative > uniforms[step].item()))
            if token == processor.tokenizer.eos_token_id:
                break
            written.append(token)
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        assert row["raw"] == processor.tokenizer.decode(written, skip_special_tokens=True)


def test_the_models_own_generation_settings_do_not_interfere(speaker, config):
    model, processor = speaker
    images = dataset_of([png(1)])
    expected = generate_pairs(images, model, processor, config, progress=False)["raw"][:]
    own = copy.deepcopy(model.generation_config)
    try:
        # set one by one, as a checkpoint's file would
        for name, value in (("repetition_penalty", 9.0), ("top_k", 1), ("num_beams", 3), ("min_new_tokens", 30)):
            setattr(model.generation_config, name, value)
        theirs = model.generation_config
        model.train()
        assert generate_pairs(images, model, processor, config, progress=False)["raw"][:] == expected
        assert model.generation_config is theirs and model.training
    finally:
        model.generation_config = own
        model.eval()


def test_temperature_0_takes_the_likeliest_token(speaker, config):
    model, processor = speaker
    pairs = generate_pairs(dataset_of([png(2)]), model, processor, changed(config, temperature=0.0), progress=False)
    for row in pairs:
        inputs = encode_prompt(
            processor, [{"role": "user", "content": TEMPLATES.get(row["template"]).user}], [picture(2)]
        )
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=40)[0, inputs["input_ids"].shape[1] :]
        assert row["raw"] == processor.tokenizer.decode(ids, skip_special_tokens=True)


def test_images_that_cannot_be_used_keep_their_rows(speaker, config):
    contents = [png(0), b"this is not an image", png(1)[:60], None]
    pairs = generate_pairs(dataset_of(contents), *speaker, config, progress=False)
    statuses = pairs["generation_status"][:]
    assert len(pairs) == 16 and "cannot be read" not in " ".join(statuses[:4])
    assert statuses[4:8] == ["the image cannot be read (it is no picture)"] * 4
    assert all(status.startswith("the image cannot be read (") for status in statuses[8:12])
    assert statuses[12:] == ["no image"] * 4
    assert pairs["raw"][4:] == [""] * 12 and pairs["prompt"][4:] == [None] * 12
    assert sum(count for status, count in generation_counts(pairs).items() if "image" in status) == 12


def test_a_prompt_that_fills_the_model_is_not_asked(speaker, config, monkeypatch):
    model, processor = speaker
    whole = generate_pairs(dataset_of([png(0)]), model, processor, config, progress=False)
    assert "no room" not in " ".join(whole["generation_status"])
    monkeypatch.setattr(model.config.get_text_config(), "max_position_embeddings", 5)
    pairs = generate_pairs(dataset_of([png(0)]), model, processor, config, progress=False)
    assert pairs["generation_status"][:] == ["the prompt leaves no room for a reply in the model's 5 tokens"] * 4
    assert pairs["raw"][:] == [""] * 4


def test_images_are_not_encoded_again(speaker, config):
    features = Features({"images": List(Image())})
    two = [{"bytes": png(7), "path": None}, {"bytes": png(8), "path": None}]
    for given in (two[:1], two):
        pairs = generate_pairs(
            Dataset.from_dict({"images": [given]}, features=features), *speaker, config, progress=False
        )
        assert pairs.features["images"] == List(Image())
        stored = pairs.with_format("arrow")[:]["images"].to_pylist()
        assert [[image["bytes"] for image in images] for images in stored] == [[image["bytes"] for image in given]] * 4


def test_a_text_without_end_is_malformed(speaker, config):
    pairs = generate_pairs(dataset_of([png(0)]), *speaker, changed(config, max_new_tokens=3), progress=False)
    ended = [status for status in pairs["generation_status"] if status != "cut off at max_new_tokens"]
    assert len(ended) < 4 and "ok" not in ended
    cut = next(row for row in pairs if row["generation_status"] == "cut off at max_new_tokens")
    assert cut["raw"] and cut["prompt"] is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_predictions_that_are_no_numbers_end_their_text_only(speaker, config, temperature, monkeypatch):
    """As in float16, where a large value of one image overflows."""
    model, processor = speaker
    options = changed(config, temperature=temperature, top_p=0.9)
    images = dataset_of([png(0), png(1)], ["a", "b"])
    expected = by_pair(generate_pairs(images, model, processor, options, progress=False))
    broken = encode_prompt(processor, [{"role": "user", "content": "?"}], [picture(1)])["pixel_values"]
    tower = type(model.model.vision_tower)
    forward = tower.forward

    def overflowing(self, pixel_values, **kwargs):
        wrong = [torch.equal(pixels, broken[0]) for pixels in pixel_values]
        pixel_values = pixel_values.masked_fill(torch.tensor(wrong)[:, None, None, None], torch.nan)
        return forward(self, pixel_values, **kwargs)

    monkeypatch.setattr(tower, "forward", overflowing)
    pairs = generate_pairs(images, model, processor, options, progress=False)
    assert generation_counts(pairs)["the model's predictions are not finite"] == 4
    for pair_id, row in by_pair(pairs).items():
        assert (row == expected[pair_id]) == pair_id.startswith("a")


def test_a_picture_that_is_gone_by_now(speaker, config, tmp_path):
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    images = Dataset.from_dict({"images": [[path] for path in paths]}, features=Features({"images": List(Image())}))
    (tmp_path / "1.png").unlink()
    pairs = generate_pairs(images, *speaker, config, progress=False)
    assert generation_counts(pairs)["the image cannot be read (there is no such file)"] == 4
    pairs.save_to_disk(tmp_path / "pairs")  # embeds the files
    assert [len(row["images"]) for row in Dataset.load_from_disk(tmp_path / "pairs")] == [1] * 4 + [0] * 4 + [1] * 4


def test_which_of_several_pictures_is_missing_is_said(speaker, config, tmp_path):
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    rows = [[paths[0], None, paths[0]], [paths[0], paths[1]], [None], []]
    images = Dataset.from_dict({"images": rows}, features=Features({"images": List(Image())}))
    (tmp_path / "1.png").unlink()
    counts = generation_counts(generate_pairs(images, *speaker, config, progress=False))
    assert counts["images[1] is null"] == counts["images[1] cannot be read (there is no such file)"] == 4
    assert counts["no image"] == 8


def test_types_are_balanced_and_each_has_one_template():
    images = dataset_of([png(0)] * 210)
    options = PairGenerationConfig("scenes", types_per_image=3, pairs_per_image=7)

    def silent(requests):
        return ((request, [Reply("") for _ in request.ks]) for request in requests)

    pairs = pa.concat_tables(generate_tables(images, silent, options, progress=False)).to_pandas()
    per_image = pairs.groupby("image_id")
    assert set(per_image["type"].nunique()) == set(per_image["template"].nunique()) == {3}
    assert pairs.groupby(["image_id", "type"]).size().isin([2, 3]).all()
    images_by_type = pairs.groupby("type")["image_id"].nunique()
    assert len(images_by_type) == 7 and chisquare(images_by_type).pvalue > 1e-3
    assert pairs["template"].nunique() == 14


def written(images, templates, *texts, **options):
    """The rows where every request has these replies."""

    def writer(requests):
        for request in requests:
            yield request, [Reply(text, None, "m", None if n else 9, n) for n, text in enumerate(texts)]

    options = PairGenerationConfig(templates, pairs_per_image=len(texts), **options)
    tables = generate_tables(images, writer, options, progress=False)
    return [row for table in tables for row in table.to_pylist()]


def test_several_pairs_of_a_reply_are_rows_of_their_own():
    template = Template("three", "x", "Write {{ pairs }} questions.", pairs=3, language="en", system="Look.")
    texts = ("Question: A cat? Answer: Yes. Question: B cat? Answer: No. Question: C cat? Answer: ?", "nothing")
    rows = written(dataset_of([png(0), png(1)], ["a", "b"]), TemplateSet("mine", (template,)), *texts)
    assert [row["pair_id"] for row in rows[:6]] == ["a/0.0", "a/0.1", "a/0.2", "a/1.0", "a/1.1", "a/1.2"]
    assert [row["generation_status"] for row in rows[:3]] == ["ok", "ok", "empty answer"]
    assert all(row["generation_status"] != "ok" for row in rows[3:6])
    assert [row["prompt"] and row["prompt"][0]["content"] for row in rows[:3]] == ["A cat?", "B cat?", None]
    assert [row["raw"] for row in rows[:6]] == [texts[0]] * 3 + [texts[1]] * 3
    # What is asked of the generator for one pair, and tokens that add up.
    asked = [{"role": "system", "content": "Look."}, {"role": "user", "content": "Write 1 questions."}]
    assert all(row["generation_prompt"] == asked and row["language"] == "en" for row in rows)
    assert sum(row["usage"]["prompt_tokens"] or 0 for row in rows) == 18
    assert sum(row["usage"]["completion_tokens"] or 0 for row in rows) == 2
    assert {row["usage"]["served_model"] for row in rows} == {"m"}


def test_a_conversation_is_one_row():
    template = Template("talk", "x", "Talk.", turns=(2, 3), reply=ReplyForm(question=("Frage",), answer=("Antwort",)))
    texts = ("Frage: Wer? Antwort: Ein Hund.\nFrage: Wo? Antwort: Im Gras.", "Frage: Wer? Antwort: Ein Hund.")
    first, second = written(dataset_of([png(0)], ["a"]), TemplateSet("mine", (template,)), *texts)
    assert first["prompt"] == [{"role": "user", "content": "Wer?"}] and first["pair_id"] == "a/0"
    assert [(m["role"], m["content"]) for m in first["completion"]] == [
        ("assistant", "Ein Hund."),
        ("user", "Wo?"),
        ("assistant", "Im Gras."),
    ]
    assert [pair.answer for pair in to_turns({**first, "images": [0]})] == ["Ein Hund.", "Im Gras."]
    assert second["prompt"] is None and "turns" in second["generation_status"]
    assert ReplyForm.from_json(first["reply_form"]).write([("Wer?", "Da.")]) == "Frage: Wer?\nAntwort: Da."


def test_a_servers_own_paths_stay_here():
    rows = written(dataset_of([png(0)]), "instruct", "x", types=("short",))
    assert rows[0]["usage"]["served_model"] == "m"
    reply = Reply("x", served_model="/home/somebody/models/mine@main")
    config = PairGenerationConfig("instruct", pairs_per_image=1, types=("short",))
    images = dataset_of([png(0)])
    (table,) = generate_tables(images, lambda requests: ((r, [reply]) for r in requests), config, progress=False)
    assert table["usage"][0]["served_model"].as_py() == "mine@main"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pairs_per_image": 0}, "pairs_per_image must be at least 1"),
        ({"types": ("presence", "sound")}, "no template of type 'sound'"),
        ({"types": ()}, "at least one type"),
        ({"types": ("count", "count")}, "each once"),
        ({"types_per_image": 6}, "types_per_image is 6"),
        ({"types_per_image": 9, "pairs_per_image": 20}, "types_per_image is 9, but there are 7 types"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"top_p": 1.1}, "top_p must be in"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        PairGenerationConfig("scenes", **options)


def test_wrong_input_is_refused_before_any_work(llava, config):
    model, processor = llava
    silent = copy.copy(processor)
    silent.chat_template = None
    cases = [
        (dataset_of([png(0)] * 3, ["a", "b", "a"]), processor, "image_id.*unique.*a"),
        (dataset_of([png(0)] * 2, ["a", None]), processor, "image_id.*null in row 1"),
        (Dataset.from_dict({"picture": ["x"]}), processor, "no column 'images' or 'image'; found picture"),
        (Dataset.from_dict({"image": ["x.png"]}), processor, "cast_column"),
        (Dataset.from_dict({"images": [["x.png"]]}), processor, "cast_column"),
        (dataset_of([png(0)]).select([]), processor, "no rows"),
        (dataset_of([png(0)]), silent, "no chat template"),
    ]
    for dataset, its_processor, message in cases:
        with pytest.raises(ValueError, match=message):
            generate_pairs(dataset, model, its_processor, config, progress=False)


def test_a_template_with_a_control_token_of_the_model_is_refused_before_any_work(llava, monkeypatch):
    monkeypatch.setattr(TextSampler, "write", lambda *_: pytest.fail("it has begun"))
    template = Template("mine", "x", "Look at <image> and ask.")
    config = PairGenerationConfig(TemplateSet("mine", (template,)))
    with pytest.raises(RunError, match="mine.*control token '<image>'"):
        generate_pairs(dataset_of([png(0)]), *llava, config, progress=False)


def test_a_thought_that_the_prompt_opens_is_read_with_the_reply():
    """Else the draft of a thought that does not end would be the pair."""
    model, processor = tiny_llava()
    processor.chat_template = processor.chat_template.replace("prompt %}ASSISTANT:", "prompt %}ASSISTANT: <think>\n")
    config = PairGenerationConfig("scenes", types=("count",), pairs_per_image=3, max_new_tokens=4)
    pairs = generate_pairs(dataset_of([png(0)]), model, processor, config, progress=False)
    assert [raw[:8] for raw in pairs["raw"]] == ["<think>\n"] * 3 and "ok" not in pairs["generation_status"][:]
