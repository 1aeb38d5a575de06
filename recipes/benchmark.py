"""Speed of the I²C scorer against the obvious script, on a random LLaVA of about 100M parameters.

    make bench

Both score the same pairs, 5 to an image of 576 tokens, interleaved in one process: the script runs two full forwards
per batch of 8 rows through `model(**inputs).logits`; the scorer is `I2CScorer`. Prints pairs per second, their ratio,
and the largest difference of the scores. Ratios of one run on one machine; seconds depend on it.
"""

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from trl import TrlParser

from c3l_hf.i2c import I2CScorer
from c3l_hf.scenes.architecture import build_processor
from c3l_hf.scenes.world import CATEGORIES


@dataclass
class BenchmarkArguments:
    images: int = field(default=4, metadata={"help": "Images, each with 5 pairs."})
    repeats: int = field(default=2, metadata={"help": "Interleaved measurements of each."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, images and texts."})


def build(seed: int):
    processor = build_processor()
    processor.image_processor.size = processor.image_processor.crop_size = {"height": 336, "width": 336}
    processor.patch_size = 14
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=512,
            intermediate_size=2048,
            num_hidden_layers=8,
            num_attention_heads=8,
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=32000,
            hidden_size=640,
            intermediate_size=1728,
            num_hidden_layers=8,
            num_attention_heads=10,
            num_key_value_heads=10,
        ),
        image_token_index=processor.tokenizer.convert_tokens_to_ids(processor.image_token),
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config).eval(), processor


def make_rows(images: int, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(images):
        image = Image.fromarray(rng.integers(0, 256, (336, 336, 3), dtype=np.uint8))
        for _ in range(5):
            answer = " ".join(rng.choice(CATEGORIES, size=int(rng.integers(15, 61))))
            rows.append({"image": image, "question": "What is in this picture?", "answer": answer})
    return rows


@torch.inference_mode()
def obvious_script(model, processor, rows: list[dict], batch_size: int = 8) -> list[float]:
    """pmi by two padded full forwards, as one writes it in an afternoon."""
    scores = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        means = []
        for with_image in (True, False):
            conversations = []
            for row in batch:
                item = [{"type": "image", "image": row["image"]}] if with_image else []
                user = {"role": "user", "content": [*item, {"type": "text", "text": row["question"]}]}
                said = {"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]}
                conversations.append([user, said])
            options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
            kwargs = {"padding": True, "padding_side": "right"}
            inputs = processor.apply_chat_template(conversations, **options, processor_kwargs=kwargs)
            logprobs = model(**inputs).logits.log_softmax(-1)[:, :-1]
            chosen = logprobs.gather(-1, inputs["input_ids"][:, 1:, None])[..., 0]
            lengths = [
                len(processor.tokenizer(f" {row['answer']}", add_special_tokens=False).input_ids) for row in batch
            ]
            ends = inputs["attention_mask"].sum(-1).tolist()
            # the last token is the end of the turn
            means.append([chosen[i, end - 2 - n : end - 2].mean() for i, (n, end) in enumerate(zip(lengths, ends))])
        scores += [float(seen - blind) for seen, blind in zip(*means)]
    return scores


def main(args: BenchmarkArguments) -> None:
    model, processor = build(args.seed)
    rows = make_rows(args.images, args.seed)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f}M parameters, {len(rows)} pairs, float32, CPU")
    scorer = I2CScorer(model, processor)
    ways = {
        "obvious script": lambda: obvious_script(model, processor, rows),
        "I2CScorer": lambda: [row["pmi"] for row in scorer.score(rows)],
    }
    seconds = {name: [] for name in ways}
    results = {}
    for _ in range(args.repeats):
        for name, run in ways.items():
            started = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - started)
    best = {name: min(values) for name, values in seconds.items()}
    for name, value in best.items():
        print(f"{name:15}{len(rows) / value:8.2f} pairs/s {best['obvious script'] / value:6.2f} x")
    difference = np.abs(np.subtract(*results.values())).max()
    print(f"largest difference of pmi: {difference:.1e}")


if __name__ == "__main__":
    (arguments,) = TrlParser((BenchmarkArguments,)).parse_args_and_config()
    main(arguments)
