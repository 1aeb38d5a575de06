"""What tokens cost."""

import pytest

from c3l_hf.common.prices import cost_of


@pytest.mark.parametrize(
    ("tokens", "prices", "cost"),
    [
        ((1_000_000, 500_000), (2.0, 8.0), 6.0),
        ((1_000_000, 500_000), (None, 8.0), 4.0),
        ((None, 500_000), (2.0, 8.0), None),  # and not what the others cost
        ((None, 500_000), (None, 8.0), 4.0),
        ((None, None), (None, None), 0.0),
    ],
)
def test_cost(tokens, prices, cost):
    assert cost_of(tokens, prices) == (None if cost is None else pytest.approx(cost))
