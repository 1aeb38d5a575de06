"""What follows the number of images: and what a user has set stays."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from c3l_hf.common.errors import RunError
from c3l_hf.pipeline.curation_options import CurationOptions
from c3l_hf.pipeline.options import (
    BackendOptions,
    GenerationOptions,
    ImageOptions,
    ModelOptions,
    PublishingOptions,
    RunOptions,
    ScoringOptions,
    SelectionOptions,
)
from c3l_hf.pipeline.settings import Settings
from c3l_hf.pipeline.sizes import images_in_shard, sized
from c3l_hf.training.config import C3LConfig


@pytest.fixture
def settings(tmp_path):
    training = C3LConfig(str(tmp_path), report_to="none", bf16=False, per_device_train_batch_size=8, max_steps=150)
    return Settings(
        RunOptions(max_epochs=3.0),
        ImageOptions("photos/"),
        ModelOptions("user/model"),
        GenerationOptions(),
        BackendOptions(),
        ScoringOptions(),
        SelectionOptions(),
        CurationOptions(),
        PublishingOptions(),
        training,
    )


@pytest.mark.parametrize(
    ("images", "target", "steps"), [(1, 1, 3), (30, 50, 12), (300, 500, 114), (3_000, 5_000, 150), (30_000, 5_000, 150)]
)
def test_a_third_of_the_pairs_and_three_epochs_at_most(settings, images, target, steps):
    follows, told = sized(settings, images)
    assert follows.curation.target_size == target
    assert f"target_size {target:,}: a third of them, at most 5,000" in told
    assert f"training: at most {steps:,} steps" in told
    assert replace(follows, curation=settings.curation) == settings  # and nothing else


def test_what_was_set_stays(settings):
    given = replace(settings, curation=CurationOptions(target_size=400), run=RunOptions())
    follows, told = sized(given, 30)
    assert follows == given
    assert "target_size is 400: all pairs that pass the other rules are kept" in told
    assert "training: at most 150 steps, 38 passes" in told
    settings.training.max_steps, settings.training.num_train_epochs = -1, 2.0
    assert "training: at most 8 steps, 2 passes" in sized(replace(given, training=settings.training), 30)[1]


def test_more_images_than_there_are_is_said_and_becomes_what_there_are(settings):
    asked = replace(settings, images=ImageOptions("photos/", num_images=3000))
    follows, told = sized(asked, 30)
    assert "num_images is 3,000, and there are 30: all are taken" in told
    # As the card and config.yaml have it.
    assert follows.configuration()["num_images"] == 30 and follows.configuration()["target_size"] == 50
    assert sized(asked, 3000)[0].images.num_images == 3000


def test_a_limit_of_epochs_needs_steps_to_limit(settings):
    settings.check()
    settings.training.max_steps = -1
    with pytest.raises(RunError, match="max_epochs is 3, a limit beside max_steps, which is not given"):
        settings.check()
    with pytest.raises(RunError, match="max_epochs is 0; it must be above 0"):
        replace(settings, run=RunOptions(max_epochs=0.0)).check()


@pytest.mark.parametrize(
    ("images", "size"),
    [(1, 1), (14, 14), (200, 25), (3_000, 47), (10_000, 100), (100_000, 100), (200_000, 200), (10**8, 500)],
)
def test_a_shard_is_a_small_part_and_has_full_batches(settings, images, size):
    assert images_in_shard(settings.generation, settings.backend, images) == size
    assert f"shards of {size:,} images" in sized(settings, images)[1]


def test_what_a_shard_follows(settings, monkeypatch):
    plain, backend = settings.generation, settings.backend
    assert images_in_shard(replace(plain, shard_size=7), backend, 200) == 7
    assert images_in_shard(replace(plain, retries=1), backend, 3_000) == 100  # both models are loaded for each
    servers = replace(backend, backend="server", base_url=["a", "b"], server_concurrency=50)
    assert images_in_shard(plain, servers, 200) == 80
    monkeypatch.setattr("c3l_hf.pipeline.sizes.process_state", lambda: SimpleNamespace(num_processes=4))
    assert images_in_shard(plain, backend, 3_000) == 47 and images_in_shard(plain, backend, 40) == 10
    assert images_in_shard(replace(plain, pairs_per_image=500), backend, 0) == 1
    with pytest.raises(RunError, match="shard_size is 0; it must be at least 1"):
        replace(settings, generation=GenerationOptions(shard_size=0)).check()
