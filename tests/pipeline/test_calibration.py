"""What a try tells of a run, by the stages themselves."""

import pytest

from c3l_hf.cli.run import COMMAND
from c3l_hf.cli.settings import read_settings
from c3l_hf.pipeline.calibration import calibrate
from c3l_hf.pipeline.inputs import open_inputs
from c3l_hf.pipeline.settings import Settings

WORDS = (
    "--model scenes --images scenes --num_images 6 --dtype float32 --bf16 false --use_lora false --report_to none "
    "--activation_checkpointing false --pairs_per_image 3 --dry_run true"
).split()


@pytest.fixture(scope="module")
def tried():
    def of(*words):
        settings = Settings(*read_settings(COMMAND, [*WORDS, *words], {}, list).groups)
        return calibrate(settings, open_inputs(settings), 3)

    return of


def test_tokens_and_what_is_done_once(tried, tmp_path):
    told = tried("--output_dir", str(tmp_path / "out"))
    assert told.problem is None and told.images == 3
    assert set(told.per_row) == {"generate", "score", "train"}
    assert set(told.fixed) == {"generate", "score", "train", "regenerate", "rescore"}
    # Of what is done once in the first round the second one has the loading alone.
    assert told.fixed["generate"] >= told.fixed["regenerate"] == told.fixed["rescore"] > 0
    assert 64 < told.prompt_tokens < 64 + 100  # an image has 64
    assert 4 < told.answer_tokens < told.reply_tokens < 96
    assert not list(tmp_path.iterdir())


def test_pairs_that_nobody_wrote_tell_nothing_of_scores(tried, tmp_path):
    told = tried("--output_dir", str(tmp_path / "out"), "--max_new_tokens", "1")
    assert "generate" in told.per_row and "score" not in told.per_row
    assert told.reply_tokens == 1 and told.answer_tokens is None
    assert told.problem.startswith("select could not be tried: ")
