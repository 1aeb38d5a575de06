"""What became of the rows of each stage, as the overview counts it."""

from c3l_hf.report.counts import funnel_of


def test_reasons_that_differ_in_a_number_are_one():
    counts = [("ok", 5), ("300 tokens, but the model takes 256", 2), ("the answer is empty", 3)]
    counts += [("900 tokens, but the model takes 256", 2)]
    (made, scored) = funnel_of([("generate", counts), ("score", counts)])
    reasons = [("N tokens, but the model takes N", 4), ("the answer is empty", 3)]
    assert (made.before, made.after, list(made.dropped)) == (None, 5, reasons)
    assert (scored.before, scored.after, list(scored.dropped)) == (12, 5, reasons)


def test_rules_with_numbers_stay_as_they_are():
    (curated,) = funnel_of([("curate", [("pairs", 9), ("kept", 5), ("dropped: below 0.5", 4)])])
    assert (curated.before, curated.after, list(curated.dropped)) == (9, 5, [("below 0.5", 4)])
