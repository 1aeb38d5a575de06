"""The processor of adapters: of their folder what it has, of their model the rest."""

import json
import shutil

import pytest
from tiny_models import tiny_gemma3, tiny_llava, tiny_llava_next

from c3l_hf.models.processors import processor_of_adapters

TEMPLATE = "{{ bos_token }}{% for m in messages %}{% for c in m['content'] %}<image>{% endfor %}{% endfor %}"


@pytest.fixture(params=[tiny_llava, tiny_llava_next, tiny_gemma3], ids=["llava", "llava_next", "gemma3"])
def folders(request, tmp_path):
    """A model's folder, and an empty one of adapters."""
    processor = request.param()[1]
    processor.save_pretrained(tmp_path / "base")
    request.param()[0].config.save_pretrained(tmp_path / "base")
    (tmp_path / "adapters").mkdir()
    return tmp_path / "base", tmp_path / "adapters", processor


def test_none_of_its_own(folders):
    base, adapters, processor = folders
    loaded, own_tokenizer = processor_of_adapters(adapters, base)
    assert type(loaded) is type(processor) and not own_tokenizer
    assert loaded.chat_template == processor.chat_template and loaded.to_json_string() == processor.to_json_string()


def test_all_of_it(folders, tmp_path):
    base, adapters, processor = folders
    processor.tokenizer.add_tokens(["<mine>"])
    processor.chat_template = TEMPLATE
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(adapters)
    loaded, own_tokenizer = processor_of_adapters(adapters, base)
    assert own_tokenizer and "<mine>" in loaded.tokenizer.get_vocab() and loaded.chat_template == TEMPLATE
    assert list(loaded.image_processor.image_mean) == [0.1, 0.2, 0.3]


def test_only_a_tokenizer(folders):
    """As trainers of text models leave it; the images are read as the model reads them."""
    base, adapters, processor = folders
    mean = processor.image_processor.image_mean
    processor.tokenizer.add_tokens(["<mine>"])
    processor.tokenizer.save_pretrained(adapters)
    loaded, own_tokenizer = processor_of_adapters(adapters, base)
    assert type(loaded) is type(processor) and own_tokenizer and "<mine>" in loaded.tokenizer.get_vocab()
    assert loaded.image_processor.image_mean == mean and loaded.chat_template == processor.chat_template


def test_only_a_part_for_images(folders):
    base, adapters, processor = folders
    values = json.loads((base / "processor_config.json").read_text())
    values["image_processor"]["image_mean"] = [0.1, 0.2, 0.3]
    (adapters / "processor_config.json").write_text(json.dumps(values))
    loaded, own_tokenizer = processor_of_adapters(adapters, base)
    assert not own_tokenizer and list(loaded.image_processor.image_mean) == [0.1, 0.2, 0.3]
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", TEMPLATE),
        ("chat_template.json", json.dumps({"chat_template": TEMPLATE})),
        ("tokenizer_config.json", json.dumps({"chat_template": TEMPLATE})),
    ],
)
@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_a_chat_template_of_its_own(folders, name, content, with_tokenizer):
    """Wins, wherever it is kept: the adapters were trained with it."""
    base, adapters, processor = folders
    if with_tokenizer:
        processor.tokenizer.chat_template = None
        processor.tokenizer.save_pretrained(adapters)
        if name == "tokenizer_config.json":
            content = json.dumps(json.loads((adapters / name).read_text()) | json.loads(content))
    (adapters / name).write_text(content)
    loaded, own_tokenizer = processor_of_adapters(adapters, base)
    assert loaded.chat_template == TEMPLATE and own_tokenizer == with_tokenizer


def test_a_template_of_the_model_where_the_adapters_have_none(folders):
    base, adapters, processor = folders
    shutil.copytree(base, adapters, dirs_exist_ok=True)
    (adapters / "chat_template.jinja").unlink()
    assert processor_of_adapters(adapters, base)[0].chat_template == processor.chat_template
