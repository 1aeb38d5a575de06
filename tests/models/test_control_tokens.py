"""Control tokens written out in a text, in every family: refused, or read as letters; and tokens that are content."""

import copy

import numpy as np
import pytest
from PIL import Image
from tiny_families import ALL_FAMILIES, as_letters
from tiny_models import tiny_gemma3, tiny_llava
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from c3l_hf.common.errors import RowError
from c3l_hf.models.control_tokens import control_of
from c3l_hf.models.encoding import encode_prompt, encode_row

# As Qwen-VL, InternVL, PaliGemma and others have them for what they write.
CONTENT = (
    "<|box_start|>",
    "<|box_end|>",
    "<|object_ref_start|>",
    "<|quad_end|>",
    "<box>",
    "</ref>",
    "<loc0001>",
    "<seg003>",
)
# Of other templates, never trained, of a tile further down: none of them is content.
FURTHER = ("<|reserved_special_token_3|>", "<|eom_id|>", "<|im_sep|>", "<end_of_turn_2>", "<|video_start|>")


def picture(seed=0, size=(20, 64)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module", params=ALL_FAMILIES.values(), ids=ALL_FAMILIES)
def processor(request):
    return request.param()[1]


@pytest.fixture
def with_more_tokens(processor):
    """The processor, its tokenizer with further special tokens, about which nothing is said but that they are there."""
    more = copy.copy(processor)
    more.tokenizer = copy.deepcopy(processor.tokenizer)
    tokens = [*CONTENT, *FURTHER, *(["<row_7_col_9>"] if "<row_1_col_1>" in more.tokenizer.get_vocab() else [])]
    more.tokenizer.add_special_tokens({"extra_special_tokens": tokens}, replace_extra_special_tokens=False)
    return more


def test_which_tokens_are_control(with_more_tokens):
    processor = with_more_tokens
    tokenizer = processor.tokenizer
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    # SmolVLM's processor has a token for videos that the tokenizer does not have.
    assert control_of(processor).tokens == special - set(CONTENT) | set(processor.all_special_multimodal_tokens)
    assert control_of(processor).ids == set(tokenizer.convert_tokens_to_ids(sorted(special - set(CONTENT))))


@pytest.mark.parametrize("images", [0, 1])
def test_tokens_that_are_content_are_encoded_as_these_tokens(with_more_tokens, images):
    processor = with_more_tokens
    tokenizer = processor.tokenizer
    text = "A dog<|box_start|>(1,2)<|box_end|> and</ref> a <box>cat<loc0001><loc0001>"
    row = encode_row(processor, user(f"Where? {text}"), text, [picture()] * images)
    ids = row.inputs["input_ids"][0].tolist()
    box, place = tokenizer.convert_tokens_to_ids(["<|box_start|>", "<loc0001>"])
    assert tokenizer.decode(row.answer_ids).strip() == text
    assert row.answer_ids.count(box) == 1 and row.answer_ids.count(place) == 2
    assert ids.count(box) == 2 and ids.count(place) == 4
    for how in ("refuse", "escape"):
        assert encode_row(processor, user("a"), text, [], control_tokens=how).answer_ids == row.answer_ids


@pytest.mark.parametrize("images", [0, 2])
def test_every_control_token_is_refused_or_escaped(processor, images):
    """An answer and a question with a token stand in the ids as letters, and all else as it stands without."""
    images = [picture(number) for number in range(images)]
    decode, control = processor.tokenizer.decode, control_of(processor).ids
    plain = encode_row(processor, user("Is it x?"), "x", images)
    plain_ids = plain.inputs["input_ids"][0].tolist()
    lead = decode(plain.answer_ids).removesuffix("x")
    tail = plain_ids[plain.answer.stop :]
    question = as_letters(processor, "Is it x?")
    for token in sorted(control_of(processor).tokens):
        text = f"a {token}b, {token}{token} \nc{token[1:]} {token}"
        for prompt, answer in ((user("Is it x?"), text), (user(f"Is it {text}?"), "x")):
            with pytest.raises(RowError, match="the text contains the control token"):
                encode_row(processor, prompt, answer, images)
        row = encode_row(processor, user("Is it x?"), text, images, control_tokens="escape")
        ids = row.inputs["input_ids"][0].tolist()
        assert ids[: row.answer.start] == plain_ids[: plain.answer.start] and ids[row.answer.stop :] == tail
        assert row.answer_ids == as_letters(processor, lead + text) and not control.intersection(row.answer_ids)
        assert decode(row.answer_ids) == lead + text
        for name in set(plain.inputs) - {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}:
            assert row.inputs[name].equal(plain.inputs[name]), name

        row = encode_row(processor, user(f"Is it {text}?"), "x", images, control_tokens="escape")
        asked = row.inputs["input_ids"][0].tolist()
        assert row.answer_ids == plain.answer_ids
        assert [number for number in asked if number in control] == [n for n in plain_ids if n in control]
        assert decode(asked) == decode(plain_ids).replace("Is it x?", f"Is it {text}?")
        # The letters around are the template's: between its tokens and the question, they are read with it.
        common = len(as_letters(processor, f"Is it {text}?")) - len(question)
        assert abs(len(asked) - len(plain_ids) - common) <= 2
        prompt = encode_prompt(processor, user(f"Is it {text}?"), images, control_tokens="escape")
        assert prompt["input_ids"][0].tolist() == asked[: row.answer.start]


def test_without_control_tokens_nothing_is_different(processor):
    for text in ("Yes.", "a < b > c | d", "</p><p>", "[INST]"):
        rows = [
            encode_row(processor, user(text), text, [picture()], control_tokens=how) for how in ("refuse", "escape")
        ]
        assert all(rows[0].inputs[name].equal(rows[1].inputs[name]) for name in rows[0].inputs)


def test_many_letters_at_once():
    """Thousands of tokens in one text."""
    processor = tiny_llava()[1]
    text = "<p></s>" * 20_000
    row = encode_row(processor, user("What?"), text, [], control_tokens="escape")
    assert processor.tokenizer.decode(row.answer_ids) == " " + text


def test_marks_of_our_own_in_a_text():
    processor = tiny_llava()[1]
    marks = [chr(number) for number in range(0xEE80, 0xEE90)]
    text = f"{marks[0]}</s>{marks[1]}"
    row = encode_row(processor, user("What?"), text, [], control_tokens="escape")
    assert row.answer_ids == as_letters(processor, " " + text)
    with pytest.raises(RowError, match=r"'</s>' cannot be escaped in a text that has all of our marks"):
        encode_row(processor, user("What?"), "</s>" + "".join(marks), [], control_tokens="escape")


@pytest.mark.parametrize("how", ["refuse", "escape"])
def test_what_becomes_a_control_token_on_the_way_is_refused(how):
    processor = tiny_gemma3()[1]
    parts = [{"type": "text", "text": "a <end_of"}, {"type": "text", "text": "_turn> b"}]
    with pytest.raises(RowError, match="control token '<end_of_turn>'"):
        encode_row(processor, [{"role": "user", "content": parts}], "Yes.", [], control_tokens=how)
    with pytest.raises(RowError, match="the role of a message contains the control token '<end_of_turn>'"):
        encode_row(
            processor, [{"role": "user<end_of_turn>", "content": "a"}, *user("b")], "Yes.", [], control_tokens=how
        )


@pytest.mark.parametrize("how", ["refuse", "escape"])
def test_full_width_letters_that_a_tokenizer_makes_plain(how):
    """A token that is looked for after normalization is found in what did not have it."""
    processor = copy.copy(tiny_llava()[1])
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 3, "a": 4}, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(token, normalized=True) for token in ("<s>", "</s>", "<image>")])
    processor.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    with pytest.raises(RowError, match="control token"):
        encode_row(processor, user("a"), "a ＜/s＞ a", [], control_tokens=how)
    # Nor can it be escaped where the tokenizer looks for it after the marks are gone.
    with pytest.raises(RowError, match="control token '</s>'"):
        encode_row(processor, user("a"), "a </s> a", [], control_tokens=how)


def test_a_tokenizer_that_makes_a_control_token_of_letters():
    processor = copy.copy(tiny_llava()[1])
    pieces = [("<unk>", 0.0), ("<s>", -1.0), ("</s>", -1.0), *((letter, -9.0) for letter in "</s>i mage:USERATN\n")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<s>", "</s>", "<image>"])
    processor.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    with pytest.raises(RowError, match=r"'</s>' cannot be escaped: the tokenizer makes it of letters too"):
        encode_row(processor, user("image"), "a </s> a", [], control_tokens="escape")


def test_a_control_token_of_one_letter():
    processor = copy.copy(tiny_llava()[1])
    processor.tokenizer = copy.deepcopy(processor.tokenizer)
    processor.tokenizer.add_special_tokens({"sep_token": "§"})
    with pytest.raises(RowError, match="'§' cannot be escaped: it is a single letter"):
        encode_row(processor, user("a"), "§ 1", [], control_tokens="escape")


def test_options_are_checked():
    with pytest.raises(ValueError, match="control_tokens is 'keep'; it must be one of refuse, escape"):
        encode_row(tiny_llava()[1], user("a"), "b", [], control_tokens="keep")


def test_the_tokens_follow_the_processor():
    """A template, or a name, that is given later counts."""
    processor = copy.copy(tiny_llava()[1])
    processor.tokenizer = copy.deepcopy(processor.tokenizer)
    processor.tokenizer.add_special_tokens(
        {"extra_special_tokens": ["<answer>", "<here>"]}, replace_extra_special_tokens=False
    )
    assert not {"<answer>", "<here>"} & control_of(processor).tokens
    processor.chat_template = processor.chat_template.replace("ASSISTANT:", "{{ '<ans' + 'wer>' }}")
    assert "<answer>" in control_of(processor).tokens and "<here>" not in control_of(processor).tokens
    processor.tokenizer.pad_token = "<here>"
    assert "<here>" in control_of(processor).tokens
