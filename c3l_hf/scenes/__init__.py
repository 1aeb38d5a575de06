"""The embedded world: scenes with truth, a checker of question/answer pairs, and a small generator trained on them."""

from pathlib import Path

from c3l_hf.scenes.checker import Verdict, check_pair
from c3l_hf.scenes.world import Scene, load_scenes

__all__ = ["GENERATOR", "Scene", "Verdict", "check_pair", "load_scenes"]

GENERATOR = str(Path(__file__).parent / "generator")
