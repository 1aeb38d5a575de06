"""A value that is none of a field's choices is refused by name."""

from dataclasses import dataclass
from typing import Literal

import pytest

from c3l_hf.common.choices import check_choices


@dataclass
class Options:
    way: Literal["short", "long"] = "short"
    steps: int = 1


def test_choices():
    check_choices(Options("long", steps="many"))
    with pytest.raises(ValueError, match="^way is 'round'; it must be one of short, long$"):
        check_choices(Options("round"))
