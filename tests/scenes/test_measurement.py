"""The table of a generator's figures has those of its parts."""

from c3l_hf.models.loading import Source, load
from c3l_hf.prompts.templates import GENERAL
from c3l_hf.scenes import GENERATOR
from c3l_hf.scenes.evaluation import Share, answer_accuracy
from c3l_hf.scenes.measurement import MeasurementOptions, measure, measurement_table
from c3l_hf.scenes.templates import QUESTION_TYPES


def test_the_table():
    options = MeasurementOptions(n=1, pairs=4, seed=2)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in measurement_table(options).splitlines()]
    assert lines[0] == ["measure", "n", "usual scenes", "n", "shifted scenes"]
    rows = {line[0]: line[1:] for line in lines[2:]}
    model, processor = load(Source(GENERATOR, dtype="float32"))
    for place, shifted in ((0, False), (2, True)):
        figures = measure(model, processor, options, shifted)
        assert list(figures) == list(rows)
        for name, figure in figures.items():
            total = str(figure.total) if isinstance(figure, Share) else ""
            assert rows[name][place : place + 2] == [total, str(figure)]
        answers = answer_accuracy(model, processor, 1, 2, shifted=shifted)
        assert {type: figures[f"answer {type}"] for type in answers} == answers
        assert figures["pairs by type: well-formed"].total == figures[f"pairs {GENERAL}: well-formed"].total == 4 * 5
        of_types = [figures[f"pairs {type}: true"] for type in QUESTION_TYPES]
        assert sum(share.total for share in of_types) == 20
        well = figures["pairs by type: well-formed"].hits
        assert 0 < sum(share.hits for share in of_types) <= well <= 20
