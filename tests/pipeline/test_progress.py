"""What a run tells of its stages."""

from c3l_hf.pipeline.progress import format_training


def test_the_last_steps_may_be_fewer_than_a_log_entry():
    """`Trainer` logs no loss with the metrics of the steps after its last logging step."""
    steps = [{"loss": 2.0, "loss/nll": 1.5}, {"loss": 1.0, "loss/nll": 0.5}, {"train_loss": 1.4, "loss/nll": 0.25}]
    lines = [line.split() for line in format_training({"steps": 22, "log": steps}).splitlines()]
    assert ["loss", "2.000", "1.000"] in lines
    assert ["loss/nll", "1.500", "0.250"] in lines
