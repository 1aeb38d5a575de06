"""The end of `make demo`: a finished run goes to the Hub and comes back, as its users will load it.

python recipes/demo/publish.py --folder runs/demo --license apache-2.0    # the real Hub
python recipes/demo/loopback_hub.py -- python recipes/demo/publish.py --folder runs/demo --license apache-2.0
"""

import logging
import sys
from dataclasses import dataclass, field

import torch
from datasets import load_dataset
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import TrlParser

from c3l_hf.data.join import join_images
from c3l_hf.generation.pairs import PairGenerationConfig, generate_pairs
from c3l_hf.publishing.hub import HubError, Publication, push, verify


@dataclass
class PublishArguments:
    """Where a run's results go; the repositories are private unless asked otherwise."""

    folder: str = field(metadata={"help": "The run's output folder."})
    namespace: str | None = field(default=None, metadata={"help": "User or organisation; by default the token's user."})
    dataset_name: str = field(default="c3l-5k", metadata={"help": "Name of the dataset's repository."})
    generator_name: str = field(default="c3l-generator", metadata={"help": "Name of the generator's repository."})
    public: bool = field(default=False, metadata={"help": "Make the repositories public."})
    license: str | None = field(default=None, metadata={"help": "Licence of what is published."})
    images_license: str | None = field(default=None, metadata={"help": "Licence of the images."})


def main(args: PublishArguments) -> None:
    options = {name: value for name, value in vars(args).items() if name != "folder"}
    print("\n== push", flush=True)
    pushed = push(args.folder, Publication(**options))
    for result in pushed:
        print(result)
    dataset_repo, generator_repo = pushed

    print("\n== verify", flush=True)
    for result, repo_type in ((dataset_repo, "dataset"), (generator_repo, "model")):
        if not verify(result.repo_id, revision=result.commit, repo_type=repo_type):
            sys.exit("publish: what came back is not what was pushed")

    print("\n== load", flush=True)
    name, revision = dataset_repo.repo_id, dataset_repo.commit
    configs = ("default", "scored", "pseudo_labels", "images")
    parts = {config: load_dataset(name, config, split="train", revision=revision) for config in configs}
    for config, rows in parts.items():
        print(f'load_dataset("{name}", "{config}")  {len(rows):,} rows')
    (picture,) = join_images(parts["scored"], parts["images"])[0]["images"]
    print(f"join_images(scored, images): the first pair's picture has {picture.width} x {picture.height} pixels")
    row = next(iter(load_dataset(name, split="train", revision=revision, streaming=True)))
    print(f"streamed: {row['prompt'][0]['content']} {row['completion'][0]['content']}")
    model = AutoModelForImageTextToText.from_pretrained(
        generator_repo.repo_id, revision=generator_repo.commit, dtype=torch.float32
    )
    processor = AutoProcessor.from_pretrained(generator_repo.repo_id, revision=generator_repo.commit)
    image = load_dataset(name, split="train[:1]", revision=revision).select_columns(["images", "image_id"])
    config = PairGenerationConfig("scenes", pairs_per_image=1, types=(row["type"],), temperature=0, max_new_tokens=96)
    (pair,) = generate_pairs(image, model, processor, config)
    print(f'from_pretrained("{generator_repo.repo_id}") about the same image: {" ".join(pair["raw"].split())}')


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        main(*TrlParser((PublishArguments,)).parse_args_and_config())
    except HubError as error:
        sys.exit(f"publish: {error}")
