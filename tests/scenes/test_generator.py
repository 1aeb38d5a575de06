"""The generator that is shipped: small, safe, and for any picture and text."""

from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from c3l_hf.scenes import GENERATOR
from c3l_hf.scenes.evaluation import answer_questions


def test_the_shipped_generator():
    folder = Path(GENERATOR)
    assert (folder / "model.safetensors").stat().st_size <= 12e6
    assert not list(folder.glob("*.bin")) and "95 %" in (folder / "README.md").read_text()
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model).__name__ == "LlavaForConditionalGeneration" and model.dtype == torch.float16
    # A picture that is no scene, and a question in words it has never seen: it reads any text.
    model = model.float()
    answers = answer_questions(model, processor, ["Où est le château?"], [Image.new("RGB", (300, 200), "green")])
    assert isinstance(answers[0], str)
