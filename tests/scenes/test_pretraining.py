"""What the small models are trained on: nothing but descriptions and text for a student."""

import re

import pytest

from c3l_hf.scenes.architecture import build_processor
from c3l_hf.scenes.checker import check_pair
from c3l_hf.scenes.pretraining import ALL_TYPES, PackedScenes
from c3l_hf.scenes.world import sample_scenes

DESCRIBE = ("Describe the picture.", "What does the picture show?")
SEGMENT = re.compile(r"(?P<blind><s>USER:)? (?P<question>[^<]*?) ASSISTANT: (?P<answer>[^<]*)")


def segments(index, **options):
    """(seen, question, answer) of every segment in the two sequences of a batch, with their scenes."""
    processor = build_processor()
    batches = PackedScenes(processor, 4, 2, seed=3, types=ALL_TYPES, long_every=2, bridges=0.5, **options)
    scenes = list(sample_scenes(2, 3, "train", start=2 * index))
    image = processor.image_token
    for scene, ids in zip(scenes, batches[index]["input_ids"]):
        text = processor.tokenizer.decode(ids).removeprefix("<s>USER:").replace(image, "").replace("<pad>", "")
        for part in filter(str.strip, text.split("</s>")):
            found = SEGMENT.fullmatch(part.rstrip()) or pytest.fail(part)
            yield scene, not found["blind"], found["question"], found["answer"].strip()


@pytest.mark.parametrize("index", [0, 1])
def test_a_student_sees_nothing_but_descriptions(index):
    found = list(segments(index, descriptions_only=True, text_only=0.5))
    seen = [(scene, question, answer) for scene, sees, question, answer in found if sees]
    read = [(scene, question, answer) for scene, sees, question, answer in found if not sees]
    assert {question for _, question, _ in seen} <= set(DESCRIBE)
    assert not [answer for _, _, answer in seen if re.match("(Yes|No),", answer)]
    assert {question for _, question, _ in read} - set(DESCRIBE)
    # What is read without a picture is true of one: that is where the language's prior is from.
    judged = [check_pair(question, answer, scene) for scene, question, answer in read if question not in DESCRIBE]
    known = [verdict.true for verdict in judged if verdict.well_formed]
    assert len(known) > 3 and all(known)


def test_whole_descriptions_are_true():
    found = [(s, q, a) for s, sees, q, a in segments(1, descriptions_only=True) if sees and "background" in a]
    whole = [check_pair(question, answer, scene) for scene, question, answer in found if " in the " in answer]
    assert whole and all(verdict.true for verdict in whole)


def test_the_generator_sees_questions():
    asked = {question for _, sees, question, _ in segments(0) if sees}
    assert asked - set(DESCRIBE)
