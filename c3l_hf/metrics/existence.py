"""An answer in a sentence to "Is there a … in the image?": does it say that the object asked for is there?"""

import re

__all__ = ["names_object", "says_whether"]

_QUESTION = re.compile(
    r"\s*(?:is|are)\s+there\s+(?:an?|any|some|the)?\s*([^?\n]{1,80}?)\s+(?:(?:visible|present|shown)\s+)?"
    r"in\s+(?:the|this)\s+(?:image|picture|photo|photograph|scene)\s*\?",
    re.IGNORECASE,
)
_PICTURE = r"(?:the|this)\s+(?:provided\s+|given\s+)?(?:image|picture|photo|photograph|scene)"
_SEE = r"(?:I|we|you)"
_NOT = r"(?:\s+not|n['’]t)"
_ANY = r"(?:an?|any|a\s+single|even\s+an?|the)\s+"
_SOME = r"(?:an?|one|two|three|four|five|six|several|some|many|multiple|a\s+few|at\s+least\s+one|the)\s+"
# Where a statement of the answer's own begins; "nobody would say there is a dog" states nothing.
_BEGINS = (
    r"(?:^|[,;:—–]|\b(?:and|but|so|because|since|as|here|image|picture|photo|photograph|scene"
    r"|can\s+(?:clearly\s+)?see\s+that|(?:clear|evident|obvious)\s+that))[\s\"'“(]*"
)
_ABSENT = re.compile(
    rf"{_BEGINS}(?:\bthere(?:\s+is|\s+are|['’]s)\s+no\s+"
    rf"|\bthere\s+(?:is|are){_NOT}\s+{_ANY}"
    rf"|\b{_SEE}\s+(?:do|can|could){_NOT}\s+(?:see|find|detect|spot)\s+{_ANY}"
    rf"|\b{_SEE}\s+(?:cannot|can['’]t)\s+(?:see|find|detect|spot)\s+{_ANY}"
    rf"|\b{_SEE}\s+(?:see|find)\s+no\s+"
    rf"|\b{_PICTURE}\s+does{_NOT}\s+(?:show|contain|have|include|feature|depict)\s+{_ANY}"
    rf"|\b{_PICTURE}\s+(?:shows|contains|has|includes|features|depicts)\s+no\s+"
    rf"|(?<![^\s,;:—–])(?<!\w )no\s+)$",
    re.IGNORECASE,
)
_PRESENT = re.compile(
    rf"{_BEGINS}(?:\bthere(?:\s+is|\s+are|['’]s)\s+{_SOME}"
    rf"|\b{_SEE}\s+(?:can\s+)?see\s+{_SOME}"
    rf"|\b{_PICTURE}\s+(?:shows|contains|has|includes|features|depicts|does\s+contain|does\s+show)\s+{_SOME})$",
    re.IGNORECASE,
)
# After an object that is not there: nothing that makes it another one ("dog house") or limits where ("on the sofa").
_ENDS = re.compile(
    rf"\s*(?:[.,;:!?\n]|$)|\s+(?:(?:visible|present|shown|depicted|seen|to\s+be\s+seen|is|are)\s*)*"
    rf"(?:in\s+{_PICTURE}(?!['’]\w)|here\b|anywhere\b|\s*(?:[.,;:!?\n]|$))",
    re.IGNORECASE,
)
# One that is there may be anywhere.
_GOES_ON = re.compile(
    r"\s*(?:[.,;:!?\n]|$)|\s+(?:in|on|at|near|by|next|visible|present|shown|depicted|here|there|that|which|who|and|with"
    r"|standing|sitting|lying)\b",
    re.IGNORECASE,
)
_HEDGED = re.compile(
    r"\b(?:if|whether|unless|may|might|maybe|perhaps|possibly|unclear|unsure|not\s+(?:sure|certain|clear|true|correct)|cannot\s+(?:say|tell)"
    r"|could\s+be|seems?|appears?|probably|likely|false|wrong|incorrect|think|believe|doubt|except|(?:apart|aside)\s+from"
    r"|other\s+than|nowhere|missing|absent|expect(?:ed|s)?|supposed?|supposing|imagined?|imaginary|imagination|looks\s+like)\b",
    re.IGNORECASE,
)
_NOT_SO = re.compile(r"\s+(?:that|which|who)\b[^,;]*?(?:\b(?:not|cannot|no)\b|n['’]t\b)", re.IGNORECASE)
_LONGEST = 400  # a sentence that is longer is not read


def says_whether(text: str, question: str) -> str | None:
    """Whether the first sentence says that what the question asks for is there.

    Read are such as "There is no dog in the picture, but a cat", "I don't see any dogs", "There's a dog on the sofa",
    "The image does not contain a dog", if they are about the very object of the question. "There is no red dog", "no
    dog house", "no dog on the sofa" and what is hedged ("there might be a dog") or asked say nothing about a dog.

    Args:
        text: The answer, plain.
        question: The question that was asked, as POPE asks: "Is there a … in the image?"; its first line.

    Returns:
        "yes", "no", or None if it is not said, or both are, or the question is another one.
    """
    asked = _QUESTION.match(question)
    if not asked:
        return None
    sentence = re.split(r"(?<=[.!?])\s|\n", text[: _LONGEST + 1], maxsplit=1)[0]
    if len(sentence) > _LONGEST or sentence.endswith("?") or _HEDGED.search(sentence):
        return None
    said: set[str | None] = set()
    for found in re.finditer(rf"(?<!\w){_plural(asked[1])}(?!\w)", sentence, re.IGNORECASE):
        before, end = sentence[: found.start()], found.end()
        if _ABSENT.search(before) and _ENDS.match(sentence, end):
            said.add("no")
        elif _PRESENT.search(before) and _GOES_ON.match(sentence, end) and not _NOT_SO.match(sentence, end):
            said.add("yes")
        else:
            said.add(None)
    return said.pop() if len(said) == 1 else None


def names_object(text: str, question: str) -> bool | None:
    """Whether a text names what the question asks for; None if the question is another one than POPE's."""
    asked = _QUESTION.match(question)
    return bool(re.search(rf"(?<!\w){_plural(asked[1])}(?!\w)", text, re.IGNORECASE)) if asked else None


def _plural(name: str) -> str:
    """A pattern of an object's name, also of several of it."""
    words = [re.escape(word) for word in name.split()]
    return r"\s+".join(words) + "(?:s|es)?"
