"""Control tokens that come into being where a chat template puts texts together, in every family."""

import copy

import numpy as np
import pytest
from PIL import Image
from tiny_families import ALL_FAMILIES
from tiny_models import tiny_gemma3, tiny_llava
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from c3l_hf.common.errors import RowError
from c3l_hf.models import rendered
from c3l_hf.models.control_tokens import control_of
from c3l_hf.models.encoding import encode_prompt, encode_row

MADE = r"the control token '.*' appears where the chat template puts the texts together"


@pytest.fixture(scope="module", params=ALL_FAMILIES.values(), ids=ALL_FAMILIES)
def processor(request):
    """With a template that strips each text, as Gemma's, so that texts of a message come together."""
    processor = copy.copy(request.param()[1])
    processor.chat_template = processor.chat_template.replace("c['text'] }}", "c['text'] | trim }}")
    assert "| trim" in processor.chat_template
    # LLaVA's has a blank between the texts of a message.
    processor.chat_template = processor.chat_template.replace("%} {{ c['text']", "%}{{ c['text']")
    # LLaVA-OneVision's begins a line with each.
    processor.chat_template = processor.chat_template.replace("{{ '\n' + c['text']", "{{ c['text']")
    return processor


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 64, 3), dtype=np.uint8))


def items(*texts):
    return [{"type": "text", "text": text} for text in texts]


def message(role, *texts):
    return {"role": role, "content": items(*texts)}


def split(token):
    """A token in two texts, which are joined once the blanks between them are gone."""
    return f"a {token[:2]} ", f"\n{token[2:]} b"


@pytest.mark.parametrize("images", [0, 1])
@pytest.mark.parametrize("how", ["refuse", "escape"])
def test_texts_that_make_a_control_token_together(processor, images, how):
    images = [picture()] * images
    for token in sorted(control_of(processor).tokens):
        first, second = split(token)
        prompts = [[message("user", first, second)], [message("system", first, second), message("user", "a")]]
        if "{% generation %}" not in processor.chat_template:  # LLaVA's ends a turn after each text of the assistant
            prompts.append([message("user", "a"), message("assistant", first, second), message("user", "b")])
        for prompt in prompts:
            with pytest.raises(RowError, match=MADE):
                encode_row(processor, prompt, "b", images, control_tokens=how)
            with pytest.raises(RowError, match=MADE):
                encode_prompt(processor, prompt, images, control_tokens=how)


@pytest.mark.parametrize("how", ["refuse", "escape"])
def test_parts_of_control_tokens_are_texts(processor, how):
    """Without what lacks of them they stand as they are, and the template's own tokens are as many as ever."""
    ids = control_of(processor).ids
    plain = encode_row(processor, [message("user", "a", "c")], "b", [picture()])
    count = sum(number in ids for number in plain.inputs["input_ids"][0].tolist())
    for token in sorted(control_of(processor).tokens):
        first, second = split(token)
        row = encode_row(processor, [message("user", second, first)], first, [picture()], control_tokens=how)
        assert sum(number in ids for number in row.inputs["input_ids"][0].tolist()) == count
        assert processor.tokenizer.decode(row.answer_ids).strip() == first.strip()


def test_a_token_in_letters_and_one_in_two_texts():
    """`escape` reads the one as letters, and cannot the other."""
    processor = tiny_gemma3()[1]
    whole = encode_row(processor, [message("user", "a <eos> b")], "c", [], control_tokens="escape")
    assert processor.tokenizer.eos_token_id not in whole.inputs["input_ids"]
    with pytest.raises(RowError, match="'<end_of_turn>' appears where"):
        encode_row(processor, [message("user", "a <eos> <end ", " _of_turn>")], "c", [], control_tokens="escape")


@pytest.fixture
def llava():
    processor = copy.copy(tiny_llava()[1])
    processor.tokenizer = copy.deepcopy(processor.tokenizer)
    return processor


@pytest.mark.parametrize(
    ("written", "question"),
    [("{{ c['text'] }}>", "a </s"), ("<{{ c['text'] }}", "/s> a"), ("{{ c['text'] | replace('#', '') }}", "a </#s> b")],
    ids=["before", "behind", "within"],
)
def test_tokens_made_of_what_the_template_writes(llava, written, question):
    llava.chat_template = llava.chat_template.replace("{% else %} {{ c['text'] }}", "{% else %} " + written)
    encode_row(llava, [message("user", "a")], "b", [picture()])
    with pytest.raises(RowError, match="'</s>' appears where"):
        encode_row(llava, [message("user", question)], "b", [picture()])


def test_tokens_that_are_looked_for_in_normalized_texts(llava):
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 3, "a": 4}, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, normalized=True) for token in ("<s>", "</s>", "<image>")])
    llava.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    llava.chat_template = llava.chat_template.replace("%} {{ c['text'] }}", "%}{{ c['text'] | trim }}")
    for how in ("refuse", "escape"):
        with pytest.raises(RowError, match="'</s>' appears where"):
            encode_prompt(llava, [message("user", "a ＜/s ", " ＞ a")], [], control_tokens=how)
        encode_prompt(llava, [message("user", "a ＜/s a", " ＞ a")], [], control_tokens=how)


@pytest.mark.parametrize("role", ["boss", "user\n", "User", "assistant</s>", "", "im_end|>"])
def test_other_roles_are_refused(processor, role):
    for encode in (
        lambda prompt: encode_row(processor, prompt, "b", []),
        lambda prompt: encode_prompt(processor, prompt, []),
    ):
        with pytest.raises(RowError, match="role"):
            encode([message("user", "a"), message(role, "c")])


def test_a_text_that_the_template_leaves_out(llava):
    """Many templates read the first text of a system message only."""
    llava.chat_template = llava.chat_template.replace(
        "{% for m in messages %}",
        "{{ messages[0]['content'][0]['text'] if messages[0]['role'] == 'system' }}"
        "{% for m in messages if m['role'] != 'system' %}",
    )
    encode_row(llava, [message("system", "Be brief."), message("user", "a")], "b", [])
    with pytest.raises(RowError, match="the model's chat template leaves system messages out"):
        encode_row(llava, [message("system", "Be brief.", "Be kind."), message("user", "a")], "b", [])
    with pytest.raises(RowError, match="the model's chat template leaves tool messages out"):
        llava.chat_template = llava.chat_template.replace("!= 'system'", "not in ('system', 'tool')")
        encode_row(llava, [message("user", "a"), message("tool", "b")], "b", [])


def test_each_structure_is_tried_once(llava, monkeypatch):
    made, real = [], rendered._made_outline
    monkeypatch.setattr(rendered, "_made_outline", lambda *args: made.append(1) or real(*args))
    monkeypatch.setattr(rendered, "_MOST", 3)
    for number in range(10):
        encode_row(llava, [message("user", f"Is it {number}?")], "b", [picture()])
    assert len(made) == 1
    for number in range(1, 5):
        encode_row(llava, [message("user", *"a" * number)], "b", [])
    assert len(made) == 5 and len(rendered._OUTLINES[llava.tokenizer]) <= 3
