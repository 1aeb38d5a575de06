"""What the small models are trained on: nothing but descriptions and text for a student; and how the phases follow."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor

from c3l_hf.common.checksums import seal_damage
from c3l_hf.scenes import GENERATOR, pretraining_run
from c3l_hf.scenes.architecture import build_model, build_processor
from c3l_hf.scenes.checker import check_pair
from c3l_hf.scenes.pretraining import ALL_TYPES, PackedScenes
from c3l_hf.scenes.pretraining_run import PretrainingOptions, pretrain
from c3l_hf.scenes.prior_heavy import PriorHeavyOptions, make_prior_heavy
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


SMALL = {"tower_steps": 1, "steps": 2, "hard_steps": 1, "text_steps": 1, "images_per_step": 2, "save_steps": 1}


@pytest.mark.parametrize("phases", [("joint", "hard"), ("joint", "text")], ids=["generator", "student"])
def test_a_run_and_what_it_leaves(tmp_path, monkeypatch, phases):
    """Each phase trains on from the one before; the same call again finds nothing left to do."""
    asked = []
    monkeypatch.setattr(pretraining_run, "answer_accuracy", lambda *args, **options: asked.append(args) or {})
    student = phases[1] == "text"
    options = PretrainingOptions(str(tmp_path), **SMALL, bf16=False, descriptions_only=student)
    final = pretrain(options)
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 1] and len(asked) == 3
    folders = [
        "tower/checkpoint-1",
        *(f"{phases[0]}/checkpoint-{step}" for step in (1, 2)),
        f"{phases[1]}/checkpoint-1",
    ]
    weights = [load_file(tmp_path / folder / "model.safetensors") for folder in folders]
    assert sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.glob("*/*/model.safetensors")) == sorted(
        folders
    )
    assert all(seal_damage(tmp_path / folder) == {} for folder in folders)
    first, joint, _, last = weights
    word = "layers.0.mlp.up_proj.weight"
    (word,) = [name for name in first if name.endswith(word)]
    start = build_model(build_processor(), 0).get_decoder().layers[0].mlp.up_proj.weight
    assert torch.equal(first[word], start)  # the tower alone
    assert not torch.equal(joint[word], start) and not torch.equal(last[word], joint[word])
    shipped = load_file(final / "model.safetensors")
    assert all(torch.equal(shipped[name], weight.half()) for name, weight in last.items())
    AutoProcessor.from_pretrained(final)
    pretrain(options)
    again = load_file(final / "model.safetensors")
    assert len(asked) == 3 and all(torch.equal(again[name], weight) for name, weight in shipped.items())


def test_a_loss_that_is_not_finite_ends_a_run(tmp_path):
    options = PretrainingOptions(str(tmp_path), **{**SMALL, "tower_steps": 2}, bf16=False, learning_rate=1e37)
    with pytest.raises(FloatingPointError, match="gradients are not finite at step 2. Lower learning_rate"):
        pretrain(options)
    assert not (tmp_path / "final").exists()


@pytest.mark.parametrize("index", [0, 1])
def test_a_prior_is_read_without_pictures(index):
    found = list(segments(index, blind=1.0, blind_pairs=1.0))
    assert found and not any(sees for _, sees, _, _ in found)
    pairs = [answer for _, _, question, answer in found if answer.startswith("Question: ")]
    assert len(pairs) > 5 if index == 1 else not pairs  # every other batch has them


def test_a_prior_heavy_generator_has_learned_in_its_language_model_alone(tmp_path):
    options = PriorHeavyOptions(str(tmp_path), steps=2, images_per_step=2, bf16=False)
    final = make_prior_heavy(options)
    weights, shipped = (load_file(Path(folder) / "model.safetensors") for folder in (final, GENERATOR))
    assert weights.keys() == shipped.keys()
    changed = {name for name, weight in weights.items() if not torch.equal(weight, shipped[name])}
    assert changed and all("language_model" in name or "lm_head" in name for name in changed)
    AutoProcessor.from_pretrained(final)
