"""What tokens cost at a server."""

from collections.abc import Sequence

__all__ = ["cost_of"]


def cost_of(tokens: Sequence[int | None], prices: Sequence[float | None]) -> float | None:
    """The cost of tokens; None if it cannot be told, as a number of tokens that have a price was not reported.

    Args:
        tokens: Numbers of tokens of each kind (prompts, replies); None of one that nobody reported.
        prices: Of a million tokens of each kind; None of one that costs nothing.
    """
    cost = 0.0
    for count, price in zip(tokens, prices):
        if price:
            if count is None:
                return None
            cost += count / 1e6 * price
    return cost
