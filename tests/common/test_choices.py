"""Words that an argument takes."""

from typing import Literal, get_args

import pytest

from c3l_hf.common.choices import check_choice


def test_other_words_are_errors_that_name_the_argument_and_the_words():
    choices = get_args(Literal["image", "dataset", "none"])
    for value in choices:
        check_choice("scope", value, choices)
    with pytest.raises(ValueError, match="^scope must be 'image', 'dataset' or 'none', not 'all'$"):
        check_choice("scope", "all", choices)
    with pytest.raises(ValueError, match="^within must be 'type', not None$"):
        check_choice("within", None, ["type"])
