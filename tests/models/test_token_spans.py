"""Numbers of tokens, carried over to another tokenizer's."""

import pytest
from tiny_models import tiny_llava
from transformers import AutoTokenizer

from c3l_hf.common.errors import RowError
from c3l_hf.models.token_spans import carry_over
from c3l_hf.models.token_texts import token_texts
from c3l_hf.scenes import GENERATOR

TEXT = "The picture shows an apple, next to a ball\non  the café's table: 日本."


class Processor:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer


def test_a_token_has_the_mean_over_its_characters():
    assert carry_over(["re", "d ", "dog"], [1.0, 2.0, 4.0], ["r", "ed", " d", "og"]) == [1.0, 1.5, 3.0, 4.0]
    assert carry_over(["a", "b"], [1.0, 3.0], ["ab"]) == [2.0]


def test_white_space_may_differ():
    assert carry_over([" red", " dog"], [1.0, 3.0], ["red ", "dog"]) == [pytest.approx(1.5), 3.0]
    assert carry_over(["red"], [2.0], [" ", "red", "\n"]) == [2.0, 2.0, 2.0]
    assert carry_over(["a", "\n", "b"], [1.0, 5.0, 2.0], ["a", "\n", "b"]) == [1.0, 5.0, 2.0]
    assert carry_over(["a ", "  b"], [1.0, 2.0], ["a", " b"]) == [1.0, 1.5]


def test_pieces_of_a_letter_share_its_value():
    assert carry_over(["", "", "日", "a"], [1.0, 2.0, 6.0, 5.0], ["日", "a"]) == [3.0, 5.0]
    assert carry_over(["日", "a"], [3.0, 5.0], ["", "", "日", "a", ""]) == [3.0, 3.0, 3.0, 5.0, 5.0]


@pytest.mark.parametrize("tokens", [["rod"], ["red", "s"], ["re"], ["", ""], []])
def test_another_text_is_refused(tokens):
    with pytest.raises(RowError, match="the stored tokens do not spell the answer"):
        carry_over(["r", "ed"], [1.0, 2.0], tokens)


def test_between_tokenizers():
    """There and back is the same by way of single letters; ones stay ones to the bit."""
    processors = [tiny_llava()[1], Processor(AutoTokenizer.from_pretrained(GENERATOR))]
    ids = [processor.tokenizer(TEXT, add_special_tokens=False)["input_ids"] for processor in processors]
    texts = [token_texts(processor, numbers) for processor, numbers in zip(processors, ids)]
    assert len(texts[0]) != len(texts[1])
    for one in texts:
        for other in texts:
            assert carry_over(one, [1.0] * len(one), other) == [1.0] * len(other)
        values = [0.5 + number for number in range(len(one))]
        # The bytes of a letter share the mean of their values.
        letters = carry_over(one, values, list("".join(one)))
        assert carry_over(list("".join(one)), letters, one) == pytest.approx(carry_over(one, values, one), rel=1e-12)
        same = [value for value, mean in zip(values, carry_over(one, values, one)) if mean == pytest.approx(value)]
        assert len(same) > 10
