"""What `c3l run --plan here` promises after a short try, against what the stages then take.

    python recipes/benchmarks/plan.py --images 60 --tried 8
    python recipes/benchmarks/plan.py --images 60 --tried 8 --clock cpu

Two models of different shape: the small LLaVA of the scenes world (5 million parameters, replies that end), and a
random Idefics3 of 29 million with images in five tiles, whose replies go on to their longest length; as it writes no
pairs, it scores and learns pairs of the scenes. Plan and run have a process of their own each. `--clock cpu` counts the
process's CPU seconds, all threads, in place of the clock's: on a machine that others use, too.
"""

import argparse
import contextlib
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

from c3l_hf.common.tables import format_table
from c3l_hf.pipeline.options import STAGES

_TILE, _PATCH, _SCALE = 64, 8, 2
_BATCH = ["--scoring_batch_size", "100", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1"]
_COMMON = ["--dtype", "float32", "--bf16", "false", "--activation_checkpointing", "false", "--use_lora", "false"]
_COMMON += ["--report_to", "none", "--save_strategy", "no", "--pairs_per_image", "5", *_BATCH]


class _Clock:
    """The module `time`, whose clocks count the process's CPU seconds."""

    def __getattr__(self, name: str) -> Any:
        return time.process_time if name in ("time", "monotonic", "perf_counter") else getattr(time, name)


def random_idefics(folder: Path) -> None:
    """An untrained Idefics3 of 29 million parameters and its processor, with the words of the scenes' generator."""
    import torch
    from transformers import (
        AutoTokenizer,
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3Processor,
        LlamaConfig,
    )
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    from c3l_hf.scenes import GENERATOR

    tokenizer = AutoTokenizer.from_pretrained(GENERATOR)
    places = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    named = {"fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>"}
    named |= {"image_token": "<image>", "end_of_utterance_token": "<end_of_utterance>"}
    tokenizer.add_special_tokens({"additional_special_tokens": [*named.values(), *places]})
    for name, token in named.items():
        setattr(tokenizer, name, token)
    sides = {"size": {"longest_edge": 2 * _TILE}, "max_image_size": {"longest_edge": _TILE}}
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] | capitalize }}:{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ ' ' + c['text'] }}{% endif %}{% endfor %}"
        "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    per_tile = (_TILE // _PATCH // _SCALE) ** 2
    images = Idefics3ImageProcessorPil(**sides)
    processor = Idefics3Processor(images, tokenizer, image_seq_len=per_tile, chat_template=template)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
    vision = Idefics3VisionConfig(**sizes, image_size=_TILE, patch_size=_PATCH)
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    config = Idefics3Config(text_config=text, vision_config=vision, image_token_id=image_token, scale_factor=_SCALE)
    Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def scene_pairs(folder: Path, count: int) -> None:
    """Scenes with five questions and answers each, as a dataset."""
    import numpy as np
    from datasets import Dataset, Features, Image, Value

    from c3l_hf.scenes.questions import ask
    from c3l_hf.scenes.world import Scene, load_scenes

    rng = np.random.default_rng(0)
    rows = []
    for row in load_scenes(count, split="test"):
        scene = Scene.from_row(row)
        for type in ("presence", "count", "colour", "where", "description"):
            question, answer = ask(scene, type, rng) or ask(scene, "description", rng)
            rows.append({"image": row["images"][0], "question": question, "answer": answer})
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    Dataset.from_list(rows, features=features).save_to_disk(folder)


def with_clock(clock: str) -> None:
    """Let all that is measured count CPU seconds, if that is asked for."""
    if clock == "cpu":
        import transformers.trainer
        import transformers.trainer_utils

        from c3l_hf.common import usage

        module: Any = _Clock()
        usage.time = transformers.trainer.time = transformers.trainer_utils.time = module


def settings_of(words: list[str]) -> Any:
    """The settings that a command line gives."""
    from c3l_hf.cli.run import COMMAND
    from c3l_hf.cli.settings import read_settings
    from c3l_hf.pipeline.settings import Settings

    return Settings(*read_settings(COMMAND, words, {}, list).groups)


def planned(words: list[str], clock: str, pipe: Any) -> None:
    from c3l_hf.common.processes import limit_threads
    from c3l_hf.pipeline.plan import make_plan
    from c3l_hf.pipeline.plan_text import format_plan

    with_clock(clock)
    limit_threads()
    plan = make_plan(settings_of([*words, "--plan", "here"]))
    pipe.send(({name: time.seconds for name, time in plan.times.items()}, format_plan(plan)))


def carried_out(words: list[str], clock: str, pipe: Any) -> None:
    from c3l_hf.cli import main

    with_clock(clock)
    with contextlib.redirect_stdout(None):
        code = main(["run", *words])
    if code:
        raise SystemExit(code)
    records = Path(words[words.index("--output_dir") + 1], "stages").glob("*/stage.json")
    took = {record.parent.name.partition("_")[2]: json.loads(record.read_text())["seconds"] for record in records}
    pipe.send(took)


def in_a_process(work: Any, words: list[str], clock: str) -> Any:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(words, clock, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


def cases(place: Path, images: int, tried: int) -> list[tuple[str, list[str], tuple[str, ...]]]:
    """Name, words of the command, and the stages that are compared."""
    random, pairs = place / "idefics", place / "pairs"
    random_idefics(random)
    scene_pairs(pairs, images)
    batch = ["--generation_batch_size", str(5 * tried)]  # which the tried images fill, too
    scenes = ["--images", "scenes", "--images_split", "validation", "--num_images", str(images), *batch]
    made = ["--model", str(random), "--templates", "instruct"]
    whole = ("generate", "score", "train", "regenerate", "rescore")
    steps = ["--num_train_epochs", "1"]
    return [
        ("LLaVA, 5M", ["--model", "scenes", *scenes, *steps], whole),
        ("Idefics3, 29M", [*made, *scenes, "--max_new_tokens", "32"], ("generate",)),
        ("Idefics3, 29M", [*made, "--pairs", str(pairs), *steps, "--num_images", str(images)], ("score", "train")),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--tried", type=int, default=8)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--show", action="store_true", help="print each plan, too")
    arguments = parser.parse_args()
    rows = [["model", "stage", "planned", "took", "planned / took"]]
    with tempfile.TemporaryDirectory() as place:
        for number, (name, words, stages) in enumerate(cases(Path(place), arguments.images, arguments.tried)):
            words += [*_COMMON, "--output_dir", f"{place}/run-{number}"]
            seconds, text = in_a_process(planned, [*words, "--calibrate", str(arguments.tried)], arguments.clock)
            made = STAGES[: 1 + STAGES.index(stages[-1])]
            took = in_a_process(carried_out, [*words, "--stages", *made], arguments.clock)
            if arguments.show:
                print(text, end="\n\n", flush=True)
            for stage in stages:
                if stage in seconds and stage in took:
                    ratio = f"{seconds[stage] / took[stage]:.2f}"
                    rows.append([name, stage, f"{seconds[stage]:.1f} s", f"{took[stage]:.1f} s", ratio])
    print(format_table(rows))


if __name__ == "__main__":
    main()
