"""Speed and memory of the I²C scorer against the obvious script, on a random LLaVA of about 100M parameters.

    make bench                                              # k = 5: the table
    python recipes/benchmarks/scoring.py --k 1 2 5 10 --plot speed.png

All ways score the same pairs, k to an image of 576 tokens, answers of 15 to 60 tokens: the script runs two full
forwards per batch of 8 rows through `model(**inputs).logits`; the others are `I2CScorer`. Each way has a process of its
own, so that its peak memory can be told, and the processes take turns in one run, so that the ratios are of one machine
in one state. `of peak` is the share of the machine's measured matrix-product rate that the least work necessary (the
packed tokens through vision tower and language model, and the head at answer positions) amounts to.
"""

import itertools
import multiprocessing
import resource
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from trl import TrlParser

from c3l_hf.common.tables import format_table
from c3l_hf.data.turns import to_turns
from c3l_hf.models.packing import pack
from c3l_hf.scenes.architecture import build_processor
from c3l_hf.scenes.world import CATEGORIES
from c3l_hf.scoring.blind import PairEncoder
from c3l_hf.scoring.scorer import I2CScorer

SCRIPT = "obvious script"
WAYS = {
    SCRIPT: torch.float32,
    "plain, float32": torch.float32,
    "packed, float32": torch.float32,
    "packed, bfloat16": torch.bfloat16,
}
SIDE, PATCH = 336, 14


@dataclass
class BenchmarkArguments:
    images: int = field(default=4, metadata={"help": "Images, each with k pairs."})
    k: list[int] = field(default_factory=lambda: [5], metadata={"help": "Pairs to an image; several make a table."})
    repeats: int = field(default=3, metadata={"help": "Turns of each way; the fastest counts."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, images and texts."})
    plot: str | None = field(default=None, metadata={"help": "File for a plot of the ratios against k."})


def build(seed: int, heads_of_keys: int = 10, layers: int = 8):
    processor = build_processor()
    processor.image_processor.size = processor.image_processor.crop_size = {"height": SIDE, "width": SIDE}
    processor.patch_size = PATCH
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=512,
            intermediate_size=2048,
            num_hidden_layers=layers,
            num_attention_heads=8,
            image_size=SIDE,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=32000,
            hidden_size=640,
            intermediate_size=1728,
            num_hidden_layers=layers,
            num_attention_heads=10,
            num_key_value_heads=heads_of_keys,
        ),
        image_token_index=processor.tokenizer.convert_tokens_to_ids(processor.image_token),
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config).eval(), processor


def make_rows(images: int, k: int, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(images):
        image = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        for _ in range(k):
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


def worker(way: str, args: BenchmarkArguments, pipe: Connection) -> None:
    """Answers numbers of pairs to an image with (seconds, scores, peak memory in bytes)."""
    model, processor = build(args.seed)
    model.to(WAYS[way])
    scorer = I2CScorer(model, processor, path="plain" if way.startswith("plain") else "auto")

    def run(rows: list[dict]) -> list[float]:
        if way == SCRIPT:
            return obvious_script(model, processor, rows)
        return [row["pmi"] for row in scorer.score(rows)]

    run(make_rows(1, 2, args.seed + 1))
    while (k := pipe.recv()) is not None:
        rows = make_rows(args.images, k, args.seed)
        started = time.perf_counter()
        scores = run(rows)
        seconds = time.perf_counter() - started
        pipe.send((seconds, scores, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def matrix_product_rate(dtype: torch.dtype, size: int = 2048, seconds: float = 1.0) -> float:
    """Floating-point operations per second of large matrix products, kept up for a second."""
    a, b = torch.randn(2, size, size).to(dtype)
    a @ b
    products, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        a @ b
        products += 1
    return products * 2 * size**3 / spent


def least_work(model: LlavaForConditionalGeneration, processor, rows: list[dict]) -> float:
    """Floating-point operations of the matrix products that no way of scoring these rows can do without."""
    encoder = PairEncoder(processor, None)
    of_image: dict[tuple, list] = {}
    blind, answers = [], 0
    for row in rows:
        seen, without = encoder.encode(to_turns(row)[0])
        of_image.setdefault(seen.images, []).append(seen)
        blind.append(without)
        answers += len(seen.answer_ids)
    ids = [[row.inputs["input_ids"][0].numpy()[: row.answer.stop - 1] for row in group] for group in of_image.values()]
    packs = [pack(group) for group in ids]
    # Blind rows of an image share a pack as its other rows do.
    unseen = iter([row.inputs["input_ids"][0].numpy()[: row.answer.stop - 1] for row in blind])
    blind_packs = [pack(list(itertools.islice(unseen, len(group)))) for group in ids]
    text, vision = model.config.text_config, model.config.vision_config
    block = sum(p.numel() for p in model.model.language_model.layers.parameters() if p.ndim == 2)
    tower = sum(p.numel() for p in model.model.vision_tower.encoder.parameters() if p.ndim == 2)
    projector = sum(p.numel() for p in model.model.multi_modal_projector.parameters() if p.ndim == 2)
    patches = (SIDE // PATCH) ** 2
    work = 0.0
    for one in [*packs, *blind_packs]:
        attended = int(one.visible().sum())
        work += 2 * block * len(one) + 4 * attended * text.hidden_size * text.num_hidden_layers
    seen_patches = 2 * (tower + projector + 3 * PATCH**2 * vision.hidden_size) * patches
    work += len(packs) * (seen_patches + 4 * patches**2 * vision.hidden_size * vision.num_hidden_layers)
    return work + 2 * 2 * answers * text.vocab_size * text.hidden_size


def main(args: BenchmarkArguments) -> None:
    model, processor = build(args.seed)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f}M parameters, {args.images} images, 2 vision passes")
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for way in WAYS:
        pipes[way], theirs = context.Pipe()
        context.Process(target=worker, args=(way, args, theirs), daemon=True).start()
    rates = {dtype: matrix_product_rate(dtype) for dtype in set(WAYS.values())}
    table = [("k", "way", "pairs/s", "ratio", "peak memory", "of peak", "largest difference of pmi")]
    ratios: dict[str, list[float]] = {way: [] for way in WAYS}
    for k in args.k:
        seconds, scores, memory = {way: [] for way in WAYS}, {}, {}
        for _ in range(args.repeats):
            for way, pipe in pipes.items():
                pipe.send(k)
                spent, scores[way], memory[way] = pipe.recv()
                seconds[way].append(spent)
            rates = {dtype: max(rate, matrix_product_rate(dtype)) for dtype, rate in rates.items()}
        work = least_work(model, processor, make_rows(args.images, k, args.seed))
        for way, dtype in WAYS.items():
            best = min(seconds[way])
            ratios[way].append(min(seconds[SCRIPT]) / best)
            table.append(
                (
                    str(k),
                    way,
                    f"{args.images * k / best:.2f}",
                    f"{ratios[way][-1]:.2f}",
                    f"{memory[way] / 1e9:.2f} GB",
                    f"{work / best / rates[dtype]:.0%}",
                    f"{np.abs(np.subtract(scores[way], scores[SCRIPT])).max():.1e}",
                )
            )
    for pipe in pipes.values():
        pipe.send(None)
    print(format_table(table))
    found = ", ".join(f"{str(dtype).removeprefix('torch.')} {rate / 1e9:.0f}" for dtype, rate in rates.items())
    print(f"matrix products, GFLOP/s: {found}; {torch.get_num_threads()} threads")
    if args.plot:
        plot(args.k, ratios, Path(args.plot))


def plot(k: list[int], ratios: dict[str, list[float]], file: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for way, values in ratios.items():
        axes.plot(k, values, marker="o", label=way)
    axes.set(xlabel="answers to an image, k", ylabel="pairs per second, ratio", xticks=k, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    (arguments,) = TrlParser((BenchmarkArguments,)).parse_args_and_config()
    main(arguments)
