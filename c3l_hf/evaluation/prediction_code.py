"""The code that answers a benchmark's questions: whoever changes it gets new answers instead of old ones."""

import functools
import sys

from c3l_hf import _compat
from c3l_hf.common.files import code_digest
from c3l_hf.evaluation import answerer
from c3l_hf.files import unreadable
from c3l_hf.generation import column_attention, decoding, drawing, plain, prefix_cache, sampling, written
from c3l_hf.models import checks, rounding
from c3l_hf.scoring import score_code, scorer

__all__ = ["MODULES", "prediction_code"]

# A test compares them with what the answerer imports: much of it is what makes a score, too.
MODULES = (
    *score_code.MODULES,
    *(_compat, answerer, checks, rounding, score_code, scorer, unreadable),
    *(column_attention, decoding, drawing, plain, prefix_cache, sampling, written),
)


@functools.cache
def prediction_code() -> str:
    """Digest of the modules that answer, as they were when first asked for: later edits are not what answers."""
    return code_digest(sys.modules["c3l_hf.evaluation.predictions"], *MODULES)
