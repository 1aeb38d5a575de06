"""Make a small generator that leans on its language prior, for experiments in the regime of C3L's claim.

    python recipes/scenes/prior_heavy.py --steps 150 --output_dir runs/prior-strong
    python recipes/scenes/prior_heavy.py --steps 25 --output_dir runs/prior-weak

A few CPU-minutes. The result is in `<output_dir>/final`; `measure_scenes.py --model` measures it.
"""

import logging

from trl import TrlParser

from c3l_hf.scenes.prior_heavy import PriorHeavyOptions, make_prior_heavy

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    make_prior_heavy(*TrlParser((PriorHeavyOptions,)).parse_args_and_config())
