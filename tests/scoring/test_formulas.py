"""Scores from log-probabilities against other implementations, and the agreement of rankings."""

import math

import numpy as np
import pytest
from scipy.special import rel_entr

from c3l_hf.data.schema import SCORES
from c3l_hf.scoring.formulas import PMI_K, rank_agreement, scores_from_logprobs


def test_scores_by_hand():
    p, q, kl = [0.5, 0.1, 0.4], [0.2, 0.2, 0.4], [0.3, 0.0, 1.2]
    scores = scores_from_logprobs(np.log(p), np.log(q), kl)
    assert list(scores) == list(SCORES)
    pmi = (math.log(2.5) + math.log(0.5) + math.log(1)) / 3
    expected = {
        "answer_kl": 0.5 * math.log(0.5 / 0.25) + 0.1 * math.log(0.1 / 0.25) + 0.4 * math.log(0.4 / 0.5),
        "token_kl": 0.5,
        "pmi": pmi,
        "ppl_ratio": 1.25 ** (1 / 3),
        "pmi_k": (PMI_K * math.log(0.5 * 0.1 * 0.4) - math.log(0.2 * 0.2 * 0.4)) / 3,
        "logprob": (math.log(0.5) + math.log(0.1) + math.log(0.4)) / 3,
        "logprob_blind": (math.log(0.2) + math.log(0.2) + math.log(0.4)) / 3,
    }
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-12), name


def test_scores_of_random_answers():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 300):
        p, q = -rng.exponential(20, (2, n))
        scores = scores_from_logprobs(p, q, rng.random(n))
        shares = [np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (p, q)]
        assert scores["answer_kl"] == pytest.approx(rel_entr(*shares).sum(), rel=1e-9, abs=1e-12)
        assert scores["answer_kl"] >= -1e-12
        perplexities = [np.exp(-x.mean()) for x in (p, q)]
        assert scores["ppl_ratio"] == pytest.approx(perplexities[1] / perplexities[0], rel=1e-9)


def test_scores_are_means_not_sums():
    scores = scores_from_logprobs([-1.0, -2.0], [-2.0, -3.0], [0.1, 0.3])
    longer = scores_from_logprobs([-1.0, -2.0] * 5, [-2.0, -3.0] * 5, [0.1, 0.3] * 5)
    assert {name: longer[name] for name in SCORES} == pytest.approx(scores)


def test_scores_of_tokens_that_hardly_exist():
    assert scores_from_logprobs([-800.0, -900.0], [-850.0, -900.0], [0, 0])["answer_kl"] == pytest.approx(0)
    assert scores_from_logprobs([-1.0], [-5.0], [0.5])["answer_kl"] == 0


@pytest.mark.parametrize("lists", [([], [], []), ([-1.0], [-1.0, -2.0], [0.1]), ([[-1.0]], [[-1.0]], [[0.1]])])
def test_scores_of_lists_that_do_not_fit(lists):
    with pytest.raises(ValueError, match="three lists of one length"):
        scores_from_logprobs(*lists)


def test_rank_agreement():
    scores = {"a": [1.0, 2.0, 3.0, None, 4.0], "b": [10.0, 20.0, 40.0, 1.0, 30.0], "c": [4.0, 3.0, 2.0, 0.0, None]}
    ab, ac, bc = rank_agreement(scores)
    assert (ab["a"], ab["b"], ab["n"]) == ("a", "b", 4)
    # of the 6 pairs of rows one is in another order: tau = (5 - 1) / 6; rho = 1 - 6 * (1 + 1) / (4 * 15)
    assert ab["kendall"] == pytest.approx(4 / 6) and ab["spearman"] == pytest.approx(0.8)
    assert ac["n"] == 3 and ac["spearman"] == pytest.approx(-1)
    assert bc["n"] == 4 and bc["kendall"] == pytest.approx(0)


def test_rank_agreement_where_there_is_none():
    constant, alone = rank_agreement({"a": [1.0, 1.0], "b": [1.0, 2.0]}), rank_agreement({"a": [1.0], "b": [2.0]})
    assert math.isnan(constant[0]["spearman"]) and math.isnan(alone[0]["kendall"])
    with pytest.raises(ValueError, match="not for the same rows"):
        rank_agreement({"a": [1.0], "b": [1.0, 2.0]})
