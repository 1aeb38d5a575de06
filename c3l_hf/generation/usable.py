"""Generators whose replies give no pair at all: found after some images, not at the end of a run of days."""

from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa

from c3l_hf.common.errors import RunError
from c3l_hf.data.schema import STATUS_OK
from c3l_hf.data.status import of_image
from c3l_hf.generation.requests import CUT_OFF, Reply, Request, Writer
from c3l_hf.generation.sampling import NON_FINITE

__all__ = ["check_usable", "watched"]

# A generator that writes one pair in a thousand replies is of no use, but works; one is given up that has replied to
# all that is asked about so many images, and to nothing with a pair.
_IMAGES = 200
_SHOWN = 80  # characters of a reply
_REMEDIES = {
    NON_FINITE: "its weights are broken or too large for float16: try another dtype (bfloat16, float32)",
    CUT_OFF: "give a larger max_new_tokens, or another model: some never end",
}
_REMEDY = "try prompt templates whose form of reply suits the model (templates), or another model"


class _Unusable:
    """Replies without a pair, counted by their reasons, each with the first as its example."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, reason: str, text: str) -> None:
        if not of_image(reason):
            self._reasons[reason] += 1
            self._examples.setdefault(reason, text)

    def error(self, which: str) -> RunError | None:
        """Why the run ends, if there were any; which replies they are is said in front."""
        if not self._reasons:
            return None
        (reason, count), *_ = self._reasons.most_common()
        text = self._examples[reason]
        # `ascii` leaves nothing in it that a terminal would act upon.
        shown = f", as {ascii(text[:_SHOWN])}{'…' if len(text) > _SHOWN else ''}" if text else ""
        return RunError(
            f"none of {which.format(self._reasons.total())} has a pair; most often ({count:,}): {reason}{shown}; "
            f"{_REMEDIES.get(reason, _REMEDY)}"
        )


def watched(writer: Writer) -> Writer:
    """A writer that ends the run if none of its replies about the first 200 images has a pair.

    Each call continues the count of those before, until there is a pair. Images that cannot be read do not count.

    Raises:
        RunError: By the requests, then; it names the reason that most replies have, the first of them, and a remedy.
    """
    unusable, images, works = _Unusable(), set[str](), False

    def write(requests: Iterable[Request]) -> Iterator[tuple[Request, list[Reply]]]:
        nonlocal works
        for request, replies in writer(requests):
            if not works:
                works = _count(request, replies, unusable)
                if any(reply.text for reply in replies) or not all(of_image(reply.problem or "") for reply in replies):
                    images.add(request.image_id)
                if not works and len(images) >= _IMAGES and (error := unusable.error("the first {:,} replies")):
                    raise error
            yield request, replies

    return write


def _count(request: Request, replies: Iterable[Reply], unusable: _Unusable) -> bool:
    """Whether one of the replies has a pair; if not, they are counted."""
    for reply in replies:
        pairs = [reply.problem] if reply.problem is not None else request.template.read(reply.text)
        for pair in pairs:
            if not isinstance(pair, str):
                return True
            unusable.add(pair, reply.text)
    return False


def check_usable(tables: Iterable[pa.Table | pa.RecordBatch]) -> None:
    """That one of the replies of a stage has a pair, however few they are.

    Nothing is said where all images could not be read.

    Args:
        tables: With `generation_status` and `raw`.

    Raises:
        RunError: If none has.
    """
    unusable = _Unusable()
    for table in tables:
        statuses = table["generation_status"].to_pylist()
        if STATUS_OK in statuses:
            return
        for status, text in zip(statuses, table["raw"].to_pylist()):
            unusable.add(status, text or "")
    if error := unusable.error("{:,} replies"):
        raise error
