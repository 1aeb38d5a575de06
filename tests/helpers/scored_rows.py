"""Pictures, scored pairs, and scored rows compared."""

import io

import numpy as np
import pytest
from datasets import Features
from PIL import Image as PILImage

from c3l_hf.data.schema import PAIR_FEATURES, SCORE_COLUMNS, SCORE_FEATURES, SCORES

FEATURES = Features({**PAIR_FEATURES, **{name: SCORE_FEATURES[name] for name in ("i2c", "pmi", "i2c_status")}})


def picture(seed):
    return PILImage.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8))


def png(seed):
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def assert_same_turn(a, b):
    """Two entries of `turns` are equal but for rounding."""
    assert list(a) == list(b) == ["i2c", *SCORES, "tokens", "status"]
    for name, value in a.items():
        assert value == b[name] or value == pytest.approx(b[name], rel=1e-5, abs=2e-6), name


def assert_same(a, b):
    """Two lists of scored rows are equal but for rounding."""
    assert len(a) == len(b)
    for one, other in zip(a, b):
        assert list(one) == list(SCORE_COLUMNS)
        for name in SCORE_COLUMNS:
            if one[name] is None or isinstance(one[name], str) or name == "answer_tokens":
                assert one[name] == other[name]
            elif name == "turns":
                assert len(one[name]) == len(other[name])
                for turn, same in zip(one[name], other[name]):
                    assert_same_turn(turn, same)
            else:
                np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=2e-6)


def pair(image_id, k, score, *, type="count", number=1, question=None, answer=None, status="ok"):
    question = f"question {k} about {image_id}?" if question is None else question
    answer = f"answer {k}" if answer is None else answer
    return {
        # not an image at all: whoever decodes it fails
        "images": [{"bytes": f"bytes of {image_id}".encode(), "path": None}],
        "image_id": image_id,
        "pair_id": f"{image_id}/{k}",
        "template": f"{type}-{number}",
        "type": type,
        "language": None,
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
        "raw": "",
        "generation_status": "ok",
        "generation_prompt": None,
        "reply_form": None,
        "usage": None,
        "attempt": 0,
        "i2c": score,
        "pmi": None if score is None else -score,
        "i2c_status": status,
    }
