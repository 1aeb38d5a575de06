"""A run that asks again about images whose best pair is too poor."""

import json

from c3l_hf.cli import main
from c3l_hf.common.shards import Shards

SMALL = "--config scenes --num_images 4 --pairs_per_image 2 --target_size 4 --stages generate score select".split()


def run(*words):
    return main(["run", *SMALL, *map(str, words)])


def test_all_attempts_are_scored_and_compete(tmp_path, capsys):
    folder, again = tmp_path / "run", ["--retries", 1, "--retry_floor", 1e6, "--shard_size", 2]
    assert run("--output_dir", folder, *again) == 0
    assert "images asked about again, attempt 1" in capsys.readouterr().out
    report = json.loads((folder / "stages" / "1_generate" / "stage.json").read_text())["report"]
    assert report["counts"]["pairs"] == 16 and report["counts"]["images asked about again, attempt 1"] == 4
    assert report["counts"]["pairs of attempt 1"] == 8
    pairs = Shards(folder / "stages" / "1_generate").table(["image_row", "attempt", "pair_id"]).to_pylist()
    assert [(row["image_row"], row["attempt"]) for row in pairs] == [
        (image, attempt) for image in range(4) for attempt in (0, 0, 1, 1)
    ]
    assert len({row["pair_id"] for row in pairs}) == 16
    assert Shards(folder / "stages" / "2_score").num_rows == 16
    labels = Shards(folder / "stages" / "3_select").table(["chosen_tokens", "rejected"]).to_pylist()
    assert all(any(piece["gain"] is not None for piece in label["chosen_tokens"]) for label in labels)
    # Another floor is another run; the same goes on, and makes nothing again.
    assert run("--output_dir", folder, "--retries", 1) == 1
    assert "retry_floor: 1000000.0 there, 0.0 asked for" in capsys.readouterr().err
    assert run("--output_dir", folder) == 1
    assert "holds another run's result" in capsys.readouterr().err
    assert run("--output_dir", folder, *again) == 0
