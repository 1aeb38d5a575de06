"""When checkpoints are saved, and that they are sealed last."""

from pathlib import Path
from types import SimpleNamespace

from tiny_training import make_trainer
from transformers import TrainerCallback

from c3l_hf.common.checksums import seal_damage
from c3l_hf.training.resuming import train_from_last
from c3l_hf.training.saving import SaveInTime


class Clock:
    """Seconds that pass only where a test lets them."""

    now = 0.0

    def __call__(self):
        return self.now


def saved_at(steps, seconds_of, *, every=900.0, taking=0.0, strategy="steps", start=0):
    """The steps at which a training would be saved."""
    clock = Clock()
    callback = SaveInTime(every, clock)
    args, state = SimpleNamespace(save_strategy=strategy), SimpleNamespace(global_step=start)
    callback.on_train_begin(args, state, None)
    saved = []
    for step in range(start + 1, steps + 1):
        callback.on_step_begin(args, state, None)
        clock.now += seconds_of(step)
        state.global_step, control = step, SimpleNamespace(should_save=False)
        callback.on_step_end(args, state, control)
        if control.should_save:
            saved.append(step)
            callback.on_save(args, state, control)
            clock.now += taking
    return saved


def test_a_quarter_of_an_hour_lies_between_checkpoints():
    assert saved_at(100, lambda _: 30.0) == [30, 60, 90]
    assert saved_at(100, lambda _: 30.0, start=50) == [80]
    assert saved_at(5, lambda _: 4000.0) == [1, 2, 3, 4, 5]  # of long steps each
    assert saved_at(1000, lambda _: 0.5) == []
    assert saved_at(1000, lambda _: 0.0) == []
    # The first step takes long, and later ones longer than those before.
    assert saved_at(60, lambda step: 300.0 if step == 1 else 30.0)[0] == 20
    [first, *_] = saved_at(200, lambda step: 10.0 if step < 40 else 60.0)
    assert 900 <= 390 + 60 * (first - 39) <= 1000


def test_what_takes_long_to_write_is_written_less_often():
    assert saved_at(200, lambda _: 30.0, taking=90.0) == [30, 90, 150]


def test_nothing_is_saved_where_that_is_asked_for():
    assert saved_at(100, lambda _: 30.0, strategy="no") == []


class Writer(TrainerCallback):
    """A user's callback that writes into checkpoints."""

    def on_save(self, args, state, control, **_):
        Path(args.output_dir, f"checkpoint-{state.global_step}", "note.txt").write_text("note")


def test_a_checkpoint_is_sealed_after_all_that_others_write(tmp_path):
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=2, max_steps=3)
    trainer.add_callback(Writer)
    train_from_last(trainer)
    for checkpoint in (tmp_path / "checkpoint-2", tmp_path / "checkpoint-3"):
        assert seal_damage(checkpoint) == {}
        (checkpoint / "note.txt").write_text("another")
        assert seal_damage(checkpoint) == {"note.txt": "is not what was written"}


def test_a_training_saves_in_time(tmp_path, monkeypatch):
    """Though its `save_steps` are far."""
    clock = Clock()
    monkeypatch.setattr("c3l_hf.training.resuming.SaveInTime", lambda: SaveInTime(clock=clock))
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=500, max_steps=3)
    step = trainer.training_step

    def long(*args, **kwargs):
        clock.now += 950
        return step(*args, **kwargs)

    monkeypatch.setattr(trainer, "training_step", long)
    train_from_last(trainer)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {f"checkpoint-{number}" for number in (1, 2, 3)}
