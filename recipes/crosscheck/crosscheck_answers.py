"""lmms-eval's answers and figures beside ours: where they differ, and why. Needs no lmms-eval.

A cause is a check, not an excuse: it names a difference only where the text shows it (a "yes" that is not all of the
answer, a first character that begins a word, …). What no cause fits is unexplained, and an error of one of the two.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from c3l_hf.evaluation.counts import count_answers
from c3l_hf.evaluation.grades import read_scores

__all__ = ["CAUSES", "DEFINITIONS", "Answer", "Difference", "Figure", "compare_answers", "compare_figures"]

CAUSES = {
    "video": "lmms-eval asks SEED-Bench's questions about videos too; here they are left out",
    "not askable": "lmms-eval asks whatever is in the data; here a question that cannot be asked is named and left out",
    "prompt of MMBench": "lmms-eval adds 'There are several options:', puts the hint into the question's line, and a "
    "blank line before the request; LLaVA-1.5's evaluation, which is followed here, does not",
    "other prompt": "the answers are to different prompts",
    "length": "the answer is cut off at our max_new_tokens; lmms-eval lets the model write more",
    "whole answer": "for POPE in lmms-eval the whole answer must be yes or no: 'Yes.' is neither",
    "first character": "for SEED-Bench lmms-eval reads the first character only; the letter comes later, or the answer "
    "is an option's text",
    "first letter of a word": "for SEED-Bench lmms-eval reads the first character, which begins a word",
    "article": "lmms-eval takes the 'A' of 'A dog' for the letter",
    "several letters": "the answer names several letters; lmms-eval takes one of them",
    "denied": "the letter is denied ('not B'); lmms-eval takes it",
    "letter in a sentence": "for MMBench lmms-eval takes any word that is a letter; here it must be the answer",
    "no such option": "lmms-eval takes the letter of an option that there is not",
    "text of an option": "the whole answer is the text of one option; lmms-eval takes the letter it contains",
    "option in a sentence": "for MMBench lmms-eval takes the option whose text is contained in the answer",
    "option nan": "for MMBench lmms-eval takes a missing option ('nan') for a text, which is contained in the answer",
    "language model": "for MMBench lmms-eval asks a language model what its rules cannot read, and after that draws a "
    "letter; the one that stands in for it here always says: none",
    "reasoning": "lmms-eval takes <think>…</think> out before its judge reads the answer; here the judge reads all",
    "no scores": "what is not two scores from 1 to 10 is an error of the judge here; lmms-eval takes the first two "
    "numbers of the line, or (-1, -1), and averages them",
    "form of the scores": "scores as fractions, as JSON or behind the names of both answers are read here; lmms-eval "
    "takes what is not two numbers in the first line for (-1, -1)",
}

# Of figures: what lmms-eval defines in another way.
DEFINITIONS = {
    "precision": "0 in lmms-eval where it is undefined",
    "recall": "lmms-eval leaves out answers that are neither yes nor no",
    "f1": "lmms-eval leaves out answers that are neither yes nor no",
    "yes_ratio": "lmms-eval counts the references, not the predictions",
    "relative_score": "lmms-eval averages (-1, -1) for what is not two scores, like a score",
}

_EXACT = 1e-9
_DENIALS = re.compile(r"\b(?:not|wrong|incorrect|false)\b|n['’]t\b", re.IGNORECASE)
_TWO_NUMBERS = re.compile(r"[\d.]+(?:\s+|,\s*)[\d.]+\s*")
_LETTERS = re.compile(r"(?<![\w'’])[A-E](?![\w'’])")


@dataclass(frozen=True)
class Answer:
    """What one of the two has of a question.

    Attributes:
        prompt: The question as it is put to the model.
        text: What the model wrote.
        answer: What was read: yes or no, or a letter; None if nothing.
        how: lmms-eval on MMBench: "letter" or "option" for the rule that read it; on LLaVA-Bench the judge's reply.
        scores: LLaVA-Bench: the judge's (reference, model); None if it gave none.
        ended: Whether the text ended before the longest length.
    """

    prompt: str
    text: str
    answer: str | None = None
    how: str | None = None
    scores: tuple[float, float] | None = None
    ended: bool = True


@dataclass(frozen=True)
class Difference:
    """One thing about one question that is not the same. `cause` is a key of `CAUSES`; None: unexplained."""

    question_id: str
    what: str
    theirs: str
    ours: str
    text: str
    cause: str | None


@dataclass(frozen=True)
class Figure:
    """One figure of a benchmark.

    Attributes:
        name: Our name of it.
        reported: lmms-eval's.
        of_their_answers: By our definition, of what lmms-eval has read.
        ours: What we report: by our definition, of what we have read.
        cause: Why `reported` is not `of_their_answers`: "" if it is; None if that, or another thing, is unexplained.
    """

    name: str
    reported: float
    of_their_answers: float
    ours: float
    cause: str | None


def compare_answers(
    benchmark: str,
    questions: Mapping[str, Mapping[str, Any]],
    theirs: Mapping[str, Answer],
    ours: Mapping[str, Answer],
    *,
    prompts: bool = True,
) -> list[Difference]:
    """All differences: in what is asked, in prompts, in texts, in what is read from them.

    Args:
        benchmark: pope, seed, mmbench, or llava_w.
        questions: Question rows by id, `meta` as a dict; also of those that only one of the two has asked.
        theirs: lmms-eval's answers by id.
        ours: Ours by id.
        prompts: Whether texts are answers to prompts; False: the same texts have been given to both.
    """
    found = []

    def add(id: str, what: str, one: Any, other: Any, text: str, cause: str | None) -> None:
        found.append(Difference(id, what, str(one), str(other), text, cause))

    for id in [*theirs, *(id for id in ours if id not in theirs)]:
        if id not in theirs or id not in ours:
            cause = "not askable" if id in theirs and questions[id]["status"] != "ok" else None
            cause = "video" if id in theirs and questions[id]["status"] == "video" else cause
            add(id, "asked", id in theirs, id in ours, "", cause)
            continue
        their, our, question = theirs[id], ours[id], questions[id]
        other_prompt = prompts and their.prompt != our.prompt
        if other_prompt:
            known = benchmark == "mmbench" and their.prompt == mmbench_prompt(question)
            add(id, "prompt", their.prompt, our.prompt, "", "prompt of MMBench" if known else None)
        if their.text.strip() != our.text.strip():
            cut = not our.ended and their.text.strip().startswith(our.text.strip())
            cause = "other prompt" if other_prompt else "length" if cut else None
            add(id, "text", their.text, our.text, "", cause)
        elif benchmark == "llava_w" and their.scores != our.scores:
            add(id, "scores", their.scores, our.scores, our.text, _why_scores(their, our))
        elif their.answer != our.answer:
            add(id, "answer", their.answer, our.answer, our.text, _why(benchmark, their, our, question["options"]))
    return found


def mmbench_prompt(question: Mapping[str, Any]) -> str:
    """MMBench's question as lmms-eval puts it."""
    meta = question["meta"]
    listed = [f"{name}. {option}" for name, option in zip("ABCD", question["options"])]
    first = f"{meta['hint']} {meta['question']}" if meta["hint"] else meta["question"]
    request = "\nAnswer with the option's letter from the given choices directly."
    return "\n".join([f"{first} There are several options:", *listed, request])


def _why(benchmark: str, their: Answer, our: Answer, options: Sequence[str]) -> str | None:
    """The cause of different readings of the same text."""
    text = our.text.strip()
    if benchmark == "pope":
        known = (
            their.answer is None
            and our.answer
            and re.search(rf"\b{our.answer}\b.|.\b{our.answer}\b", text, re.I | re.S)
        )
        return "whole answer" if known else None
    named = set(_LETTERS.findall(text))
    if their.answer is None:
        if benchmark == "mmbench":
            return "language model"
        said = our.answer.lower() in re.findall(r"\b[a-z]\b", text[1:].lower())
        option = options["ABCD".index(our.answer)]
        return "first character" if said or option.lower() in text.lower() else None
    if their.how == "option":
        option = dict(zip("ABCD", options)).get(their.answer)
        if option is None:
            return "option nan" if "nan" in text.lower() else None
        return "option in a sentence" if option.lower() in text.lower() and option.lower() != text.lower() else None
    if their.answer not in "ABCD"[: len(options)]:
        return "no such option"
    if our.answer and text.lower() == options["ABCD".index(our.answer)].lower():
        return "text of an option"
    if benchmark == "seed" and re.match(r"\w['’-]?\w", text):
        return "first letter of a word"
    if our.answer is not None:
        return None
    if len(named) > 1:
        return "several letters"
    if _DENIALS.search(text):
        return "denied"
    if their.answer == "A" and re.match(r"A\s+\w", text):
        return "article"
    return "letter in a sentence" if benchmark == "mmbench" and len(text.split()) > 1 else None


def _why_scores(their: Answer, our: Answer) -> str | None:
    """The cause of different scores of the same text."""
    if our.scores is not None and "</think>" in our.text:
        return "reasoning"
    reply = their.how or ""
    try:
        given = read_scores(reply)
    except ValueError:
        return "no scores" if our.scores is None else None
    if our.scores is None or given != our.scores:
        return None  # lmms-eval's judge has given scores, so that ours should have the same
    return None if _TWO_NUMBERS.fullmatch(reply.strip().partition("\n")[0]) else "form of the scores"


def compare_figures(
    benchmark: str,
    predictions: Iterable[Mapping[str, Any]],
    theirs: Mapping[str, Answer],
    ours: Mapping[str, Answer],
    reported: Mapping[str, float],
    metric: Mapping[str, Any],
) -> list[Figure]:
    """The figures, of the questions that both have asked.

    Args:
        benchmark: As in `compare_answers`, with `theirs` and `ours`.
        predictions: Prediction rows of the same questions; what they say is not used.
        reported: What lmms-eval reports, by our names.
        metric: What our metric reports.
    """
    rows = [dict(row) for row in predictions if row["question_id"] in theirs and row["question_id"] in ours]
    definition = _their_figures(benchmark, rows, theirs)
    read = {who: _our_figures(benchmark, rows, answers) for who, answers in (("theirs", theirs), ("ours", ours))}
    mine = _flat(metric)
    found = []
    for name, value in reported.items():
        # Of LLaVA-Bench's it rounds what it reports to one decimal, and the means before.
        same = _same(value, read["theirs"][name], 0.1 if benchmark == "llava_w" else _EXACT)
        # Its own definition must give what it reports, and what we have read what we report.
        known = _same(value, definition[name]) and _same(mine[name], read["ours"][name])
        cause = None if not known else "" if same else DEFINITIONS.get(name.partition(" ")[0])
        found.append(Figure(name, value, read["theirs"][name], mine[name], cause))
    return found


def _our_figures(benchmark: str, rows: Sequence[Mapping[str, Any]], answers: Mapping[str, Answer]) -> dict[str, float]:
    """What our metric makes of what has been read."""
    said = []
    for row in rows:
        answer = answers[row["question_id"]]
        # lmms-eval's (-1, -1) stands for no scores, and it takes any number for one.
        valid = answer.scores and all(1 <= score <= 10 for score in answer.scores)
        reference, model = answer.scores if valid else (None, None)
        scores = {"reference_score": reference, "model_score": model, "judge_status": "ok"}
        said.append({**row, "prediction": answer.answer or "", "status": "ok", "option_status": None, **scores})
    return _flat(count_answers(benchmark, said)[0].metric)


def _flat(metric: Mapping[str, Any]) -> dict[str, float]:
    """Our metrics' figures of all questions; of LLaVA-Bench by category."""
    found = {name: value for name, value in metric.items() if isinstance(value, float | None)}
    if "relative_score" in metric:
        parts = {"all": metric, **metric["by_category"]}
        found |= {f"relative_score {name}": part["relative_score"] for name, part in parts.items()}
    return {name: math.nan if value is None else value for name, value in found.items()}


def _their_figures(
    benchmark: str, rows: Sequence[Mapping[str, Any]], answers: Mapping[str, Answer]
) -> dict[str, float]:
    """lmms-eval's figures of what it has read, by its definitions (0.7.3)."""
    pairs = [(row["answer"], answers[row["question_id"]].answer) for row in rows]
    right = [reference == read for reference, read in pairs]
    if benchmark == "pope":
        true, false, missed = (pairs.count(pair) for pair in (("yes", "yes"), ("no", "yes"), ("yes", "no")))
        precision, recall = (true / (true + other) if true + other else 0 for other in (false, missed))
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
        asked = sum(reference == "yes" for reference, _ in pairs) / len(pairs)
        return {"accuracy": np.mean(right), "precision": precision, "recall": recall, "f1": f1, "yes_ratio": asked}
    if benchmark == "seed":
        return {"accuracy": np.mean(right)}
    if benchmark == "mmbench":
        whole: dict[int, bool] = {}
        for row, hit in zip(rows, right):
            base = json.loads(row["meta"])["base"]
            whole[base] = whole.get(base, True) and hit
        return {"circular_accuracy": np.mean(list(whole.values()))}
    found = {}
    for name in ("all", *{row["group"] for row in rows}):
        scores = [answers[row["question_id"]].scores for row in rows if name in ("all", row["group"])]
        reference, model = (round(mean, 3) for mean in np.mean(scores, axis=0).tolist())
        found[f"relative_score {name}"] = round(model / reference * 100, 1)
    return found


def _same(one: float, other: float, tolerance: float = _EXACT) -> bool:
    return math.isclose(one, other, rel_tol=0, abs_tol=tolerance) or math.isnan(one) and math.isnan(other)
