"""The text of each token: as by its definition, which decodes every beginning of the answer; long answers."""

import random

import pytest
from tiny_families import ALL_FAMILIES
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from c3l_hf.models.encoding import encode_row
from c3l_hf.models.token_texts import token_texts

LETTERS = "abcog do.,'  \n日本é🐶👩‍👩‍👧z̸͔̀\ufffd<>\u200dкот"


class Processor:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer


def sentencepiece(decoder):
    """As Llama's: spaces are `▁`, what is not in the vocabulary falls back on bytes."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "c",
        "o",
        "g",
        "d",
        "t",
    ]
    merges = [("▁", "▁"), ("▁", "a"), ("▁", "d"), ("d", "o"), ("▁", "do"), ("▁do", "g"), ("c", "a"), ("ca", "t")]
    pieces += [*map("".join, merges), "日", "é", ".", "\ufffd"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    if decoder == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        strip = [decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), *strip])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("<box>", special=False), AddedToken("日本", lstrip=True, rstrip=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def wordpiece():
    """As BERT's: its decoder puts spaces between tokens and takes them away before some."""
    pieces = ["[UNK]", "a", "##b", "dog", "##s", ".", ",", "'", "n't", "do", "o", "##o", "c"]
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


TOKENIZERS = {
    **{name: lambda build=build: build()[1].tokenizer for name, build in ALL_FAMILIES.items()},
    "sentencepiece": lambda: sentencepiece("strip"),
    "metaspace": lambda: sentencepiece("metaspace"),
    "wordpiece": wordpiece,
}


@pytest.fixture(scope="module", params=TOKENIZERS.values(), ids=TOKENIZERS)
def tokenizer(request):
    return request.param()


def by_definition(tokenizer, ids):
    texts, done = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        if end < len(ids) and text.endswith("\ufffd"):
            texts.append("")
        else:
            texts.append(text[len(done) :])
            done = text
    return texts


def test_texts_are_those_of_the_definition(tokenizer):
    """On random texts and random ids, among them halves of characters and bytes that are none."""
    rng, compared = random.Random(0), 0
    for number in range(300):
        length = rng.randrange(60)
        if number % 2:
            ids = [rng.randrange(len(tokenizer)) for _ in range(length)]
        else:
            ids = tokenizer("".join(rng.choices(LETTERS, k=length)), add_special_tokens=False)["input_ids"]
        texts, expected = token_texts(Processor(tokenizer), ids), by_definition(tokenizer, ids)
        whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert "".join(texts) == whole and len(texts) == len(ids)
        # A wrong byte turns those before it into no characters, too: then the definition does not make up the text.
        if "".join(expected) == whole:
            assert texts == expected
            compared += 1
    assert compared > 100


def test_a_wrong_byte_after_a_character():
    """With a fallback on bytes it takes the character before it along; the joined texts are still the answer."""
    tokenizer = sentencepiece("strip")
    cat = tokenizer.convert_tokens_to_ids(["<0xE6>", "<0x97>", "<0xA6>", "<0xFF>", "a"])
    assert token_texts(Processor(tokenizer), cat) == ["", "", "", "", "\ufffd\ufffd\ufffd\ufffda"]
    assert token_texts(Processor(tokenizer), [*cat[:3], cat[4]]) == ["", "", "旦", "a"]


@pytest.mark.parametrize("text", ["there is a dog ", "🐶", "\ufffd", "日本 "])
def test_long_answers(tokenizer, text):
    """Tens of thousands of tokens: with time that grows as their square these would take many minutes each."""
    ids = tokenizer(text * 8_000, add_special_tokens=False)["input_ids"]
    for some in (ids, ids[:-1], (ids[:1] + ids[-1:]) * 10_000):
        assert "".join(token_texts(Processor(tokenizer), some)) == tokenizer.decode(some)


def test_an_answer_of_bytes_that_are_no_text(tokenizer):
    first = tokenizer("🐶", add_special_tokens=False)["input_ids"][0]
    texts = token_texts(Processor(tokenizer), [first] * 40_000)
    assert "".join(texts) == tokenizer.decode([first] * 40_000)
    assert token_texts(Processor(tokenizer), []) == []


def test_token_texts_join_to_the_answer(family):
    _, processor = family
    for answer in ("Yes, there is a dog.", "a dög 日本", "one\ntwo", "🐶🐱"):
        ids = encode_row(processor, [{"role": "user", "content": "Is there a dog?"}], answer, []).answer_ids
        texts = token_texts(processor, ids)
        assert len(texts) == len(ids)
        assert "".join(texts).strip() == answer
