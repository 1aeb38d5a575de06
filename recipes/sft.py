"""Fine-tune a vision-language student on a curated dataset, with TRL's `SFTTrainer`.

    accelerate launch recipes/sft.py --config recipes/configs/sft_llava15_7b.yaml --dataset user/c3l-5k

The same as `c3l sft`, for launchers that want a file. In full or by LoRA adapters; the loss is on the answers only.
From Python: `c3l_hf.finetuning.run.run_sft`, or `c3l_hf.finetuning.student.fine_tune` in memory.
"""

import sys

from c3l_hf.cli import entry

if __name__ == "__main__":
    entry(["sft", *sys.argv[1:]])
