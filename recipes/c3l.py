"""C3L, the whole method: images → pairs → scores → pseudo-labels → training → new pairs → scores → the compact dataset.

    accelerate launch recipes/c3l.py --config recipes/configs/scenes.yaml

The same as `c3l run`, as a script for `accelerate launch`: with several processes, each generates and scores its part
of the images, and training is data-parallel. Behind both is `c3l_hf.pipeline.method.run_c3l`.
"""

import sys

from c3l_hf.cli import entry

if __name__ == "__main__":
    entry(["run", *sys.argv[1:]])
