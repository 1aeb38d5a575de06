"""The names of columns."""

from c3l_hf.data.schema import PAIR_FEATURES, PSEUDO_LABEL_FEATURES, SCORE_COLUMNS, SCORE_FEATURES


def test_feature_names():
    assert list(SCORE_FEATURES) == list(SCORE_COLUMNS)
    assert {"images", "prompt", "chosen", "rejected"} <= set(PSEUDO_LABEL_FEATURES)
    assert not set(PAIR_FEATURES) & set(SCORE_COLUMNS)
