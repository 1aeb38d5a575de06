"""The code that makes a score: whoever changes it gets new scores instead of old ones."""

import functools
import sys

import transformers

from c3l_hf.common import thoughts
from c3l_hf.common.files import code_digest, digest
from c3l_hf.data import image_files, layouts, messages, places, plain_values, schema, stored_rows, turns, unforeseen
from c3l_hf.files import addresses, decoders, image, sixteen_bits
from c3l_hf.models import (
    adapters,
    batching,
    control_tokens,
    encoding,
    packing,
    parameters,
    processors,
    rendered,
    token_texts,
)
from c3l_hf.scoring import batch, blind, formulas, likelihood, one_pair, options, passes, rows, self_check

__all__ = ["MODULES", "code_version"]

# Beside this one and the scorer itself.
MODULES = (
    *(thoughts, addresses, decoders, image, sixteen_bits),
    *(image_files, layouts, messages, places, plain_values, schema, stored_rows, turns, unforeseen),
    *(adapters, batching, control_tokens, encoding, packing, parameters, processors, rendered, token_texts),
    *(batch, blind, formulas, likelihood, one_pair, options, passes, rows, self_check),
)


@functools.cache
def code_version() -> str:
    """Digest of the modules that make a score and the version of transformers: a corrected scorer scores anew."""
    own = sys.modules[__name__], sys.modules["c3l_hf.scoring.scorer"]
    return digest(transformers.__version__, code_digest(*MODULES, *own))
