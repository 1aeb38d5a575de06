"""Train the small generator of the scenes world from scratch.

    python recipes/scenes/pretrain_scenes.py --output_dir runs/generator

The result, in `<output_dir>/final`, is what `c3l_hf/scenes/generator` ships; `measure_scenes.py` measures it. With

    python recipes/scenes/pretrain_scenes.py --descriptions_only --bridges 0.5 --output_dir runs/student

a student is made instead: the same architecture and tower, which only ever described pictures. In its last phase it
also reads questions and answers, without pictures.
"""

import logging

from trl import TrlParser

from c3l_hf.scenes.pretraining_run import PretrainingOptions, pretrain

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    pretrain(*TrlParser((PretrainingOptions,)).parse_args_and_config())
