"""A value that is none of the choices is refused by name."""

from dataclasses import dataclass
from typing import Literal, get_args

import pytest

from c3l_hf.common.choices import check_choice, check_choices


@dataclass
class Options:
    way: Literal["short", "long"] = "short"
    steps: int = 1


def test_an_argument():
    choices = get_args(Literal["image", "dataset", "none"])
    for value in choices:
        check_choice("scope", value, choices)
    with pytest.raises(ValueError, match="^scope is 'all'; it must be one of image, dataset, none$"):
        check_choice("scope", "all", choices)
    with pytest.raises(ValueError, match="^within is None; it must be one of type$"):
        check_choice("within", None, ["type"])


def test_the_fields_of_options():
    check_choices(Options("long", steps="many"))
    with pytest.raises(ValueError, match="^way is 'round'; it must be one of short, long$"):
        check_choices(Options("round"))
