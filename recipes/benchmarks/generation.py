"""Speed and memory of generation against the two obvious scripts, on a random LLaVA of about 100M parameters.

    make bench                                              # k = 5: the table
    python recipes/benchmarks/generation.py --k 1 2 5 10

All ways write k texts of 40 tokens about each image of 576 tokens; no text ends before. The scripts call the model's
`generate` with batches of 8 rows, a row for each text, and with `num_return_sequences=k` for one image after the other;
ours is `TextSampler`, whose trial of its ways, once in a process, is not counted. Each way has a process of its own, so
that its peak memory can be told, and the processes take turns in one run, so that the ratios are of one machine in one
state. Memory is what a process needs beyond the loaded model, and in brackets all of it.
"""

import multiprocessing
import resource
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import numpy as np
import torch
from PIL import Image
from scoring import SIDE, build
from trl import TrlParser

from c3l_hf.common.tables import format_table
from c3l_hf.generation.sampling import TextSampler
from c3l_hf.models.encoding import encode_prompt

SCRIPTS = ("batches of 8 rows", "num_return_sequences=k")
OURS = "TextSampler"
QUESTION = "Ask a question about this picture, and answer it."


@dataclass
class BenchmarkArguments:
    images: int = field(default=8, metadata={"help": "Images, each with k texts."})
    k: list[int] = field(default_factory=lambda: [5], metadata={"help": "Texts to an image; several make a table."})
    tokens: int = field(default=40, metadata={"help": "Tokens of each text."})
    dtypes: list[str] = field(default_factory=lambda: ["float32", "bfloat16"], metadata={"help": "Precisions."})
    heads_of_keys: int = field(default=10, metadata={"help": "Heads of keys and values, of 10 of queries."})
    batch_size: int = field(default=10, metadata={"help": "Texts that ours writes at once."})
    repeats: int = field(default=2, metadata={"help": "Turns of each way; the fastest counts."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, images and texts."})


def images(count: int, seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(count)]


def conversation(image: Image.Image) -> list[dict]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]}]


def never_end(model, processor) -> None:
    """No text ends by itself: a token that there is not would end it."""
    model.generation_config.eos_token_id = model.config.text_config.vocab_size
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id


@torch.inference_mode()
def script(way: str, model, processor, pictures: list, k: int, tokens: int) -> int:
    """Texts by `generate`, as one writes it in an afternoon."""
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    asked = {"do_sample": True, "max_new_tokens": tokens, "top_k": 0}
    written = 0
    if way == SCRIPTS[0]:
        rows = [picture for picture in pictures for _ in range(k)]
        batches = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    else:
        batches = [[picture] for picture in pictures]
        asked["num_return_sequences"] = k
    for batch in batches:
        inputs = processor.apply_chat_template(
            [conversation(picture) for picture in batch],
            **options,
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(model.dtype)
        ids = model.generate(**inputs, **asked)[:, inputs["input_ids"].shape[1] :]
        written += len(processor.batch_decode(ids, skip_special_tokens=True)) if ids.shape[1] == tokens else 0
    return written


def ours(model, processor, pictures: list, k: int, tokens: int, batch_size: int) -> int:
    rng = np.random.default_rng(0)
    prompt = [{"role": "user", "content": QUESTION}]
    prompts = ((0, encode_prompt(processor, prompt, [picture]), rng.random((k, tokens))) for picture in pictures)
    with TextSampler(model, processor, temperature=1.0, top_p=1.0, batch_size=batch_size) as sampler:
        written = sum(text.tokens == tokens for _, texts in sampler.write(prompts) for text in texts)
        if sampler.way != "columns":
            raise RuntimeError(f"it has written in the way {sampler.way!r}")
    return written


def memory() -> int:
    """Peak memory of the process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def worker(way: str, dtype: str, k: int, args: BenchmarkArguments, pipe: Connection) -> None:
    """Says what it needs when the model is loaded; then, as often as it is asked, seconds, texts and peak memory."""
    torch.set_default_dtype(getattr(torch, dtype))  # no second copy of the weights, which would be the peak
    model, processor = build(args.seed, args.heads_of_keys)
    torch.set_default_dtype(torch.float32)
    never_end(model, processor)
    loaded = memory()

    def write(count: int, tokens: int) -> int:
        pictures = images(count, args.seed)
        if way == OURS:
            return ours(model, processor, pictures, k, tokens, args.batch_size)
        return script(way, model, processor, pictures, k, tokens)

    write(2, args.tokens if way == OURS else 2)  # ours tries its ways here
    while pipe.recv():
        started = time.perf_counter()
        written = write(args.images, args.tokens)
        pipe.send((time.perf_counter() - started, written, memory() - loaded, memory()))


def main(args: BenchmarkArguments) -> None:
    context = multiprocessing.get_context("spawn")
    table = [("precision", "k", "way", "pairs/s", "ratio", "memory beyond the model (in all)")]
    for dtype in args.dtypes:
        for k in args.k:
            pipes, processes, found = {}, [], {}
            for way in (*SCRIPTS, OURS):
                pipes[way], theirs = context.Pipe()
                processes.append(context.Process(target=worker, args=(way, dtype, k, args, theirs), daemon=True))
                processes[-1].start()
            for _ in range(args.repeats):
                for way, pipe in pipes.items():
                    pipe.send(True)
                    turn = pipe.recv()
                    found[way] = min(found.get(way, turn), turn)
            for pipe, process in zip(pipes.values(), processes):
                pipe.send(False)
                process.join()
            for way, (seconds, written, beyond, whole) in found.items():
                if written < args.images * k:
                    raise RuntimeError(f"{way}: {written} texts instead of {args.images * k}")
                row = (
                    f"{written / seconds:.2f}",
                    f"{seconds / found[OURS][0]:.2f}",
                    f"{beyond / 1e9:.2f} GB ({whole / 1e9:.2f} GB)",
                )
                table.append((dtype, str(k), way, *row))
    print(format_table(table))
    print(f"{torch.get_num_threads()} threads; ratio: how often ours is as fast")


if __name__ == "__main__":
    (arguments,) = TrlParser((BenchmarkArguments,)).parse_args_and_config()
    main(arguments)
