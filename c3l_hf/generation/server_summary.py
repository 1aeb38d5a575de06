"""What servers were asked, and what came of it: requests, replies, tokens, and their price."""

import logging
import threading
from collections import Counter
from collections.abc import Mapping

from c3l_hf.common.prices import cost_of
from c3l_hf.generation.requests import Reply

__all__ = ["ServerSummary"]

logger = logging.getLogger(__name__)

_ALL_THE_SAME = 8  # requests, after which it is no chance


class ServerSummary:
    """Counts of what a writer of a server's replies has given; from several threads.

    Args:
        prompt_price: Of a million tokens of prompts; None if it is not known.
        completion_price: Of a million tokens of replies.
        sampled: Whether the replies to a request ought to differ.
    """

    def __init__(self, prompt_price: float | None, completion_price: float | None, sampled: bool) -> None:
        self._prices, self._sampled = (prompt_price, completion_price), sampled
        self._lock, self._counts, self._models = threading.Lock(), Counter[str](), Counter[str]()

    def counted(self, replies: list[Reply], kept: int = 0) -> list[Reply]:
        """The replies to a request as they are, once they are counted.

        Args:
            replies: The replies.
            kept: How many of them an earlier run had asked for.
        """
        with self._lock:
            self._counts["requests"] += 1
            self._counts["replies"] += sum(bool(reply.text) for reply in replies)
            self._counts["replies of an earlier run"] += kept
            self._counts["replies with a problem"] += sum(reply.problem is not None for reply in replies)
            self._counts["prompt tokens"] += sum(reply.prompt_tokens or 0 for reply in replies)
            self._counts["completion tokens"] += sum(reply.completion_tokens or 0 for reply in replies)
            self._models.update(reply.served_model for reply in replies if reply.served_model is not None)
            texts = [reply.text for reply in replies if reply.text]
            self._counts["several"] += len(texts) > 1
            self._counts["the same"] += len(texts) > 1 == len(set(texts))
            several, same = self._counts["several"], self._counts["the same"]
        if self._sampled and len(texts) > 1 and several == same == _ALL_THE_SAME:
            logger.warning(
                "the replies to each of the first %d requests are all the same: the server seems to ignore temperature "
                "or seed (`transformers serve` does, unless the model's generation_config.json has do_sample)",
                same,
            )
        return replies

    def rows(self, left_out: Mapping[str, str]) -> list[tuple[str, int | float | str]]:
        """The counts, by name.

        Args:
            left_out: Servers that were left out, and why.
        """
        with self._lock:
            names = ("requests", "replies", "replies of an earlier run", "replies with a problem")
            rows: list[tuple[str, int | float | str]] = [(name, self._counts[name]) for name in names]
            tokens = [self._counts[name] for name in ("prompt tokens", "completion tokens")]
            rows += [("prompt tokens", tokens[0]), ("completion tokens", tokens[1])]
            if any(price is not None for price in self._prices):
                cost = cost_of(tokens, self._prices) or 0.0  # of those that were reported
                rows.append(("cost, by the prices given", round(cost, 6)))
            if self._sampled and self._counts["the same"]:
                rows.append(("requests whose replies are all the same", self._counts["the same"]))
            rows += [(f"replies of {name}", count) for name, count in sorted(self._models.items())]
        return rows + [(f"left out: {root}", why) for root, why in left_out.items()]
