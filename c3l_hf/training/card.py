"""The card beside what the trainer saves or pushes: of adapters it names their model, and how both are loaded."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from c3l_hf.common.files import shipped
from c3l_hf.common.names import is_repository_name
from c3l_hf.common.plain import plain
from c3l_hf.common.versions import versions

__all__ = ["trainer_card"]

_SHOWN = ("c3l-hf", "trl", "transformers", "peft", "torch", "datasets")


def trainer_card(
    *,
    base: str,
    name: str,
    adapters: bool,
    paper: Mapping[str, str],
    model_name: str | None = None,
    dataset: str | None = None,
    tags: Iterable[str] = (),
) -> ModelCard:
    """The card of a model or of adapters that `C3LTrainer` has trained; its wording is in `hub_cards/trainer_card.md`.

    Paths of this machine do not reach it: of a local model's only the last part does, and the metadata do not name it.

    Args:
        base: The model that was trained: its name on the Hub, or a folder.
        name: What was trained: its repository, or its folder.
        adapters: Whether it is adapters alone.
        paper: Of the method: "title", "id" (arXiv) and "citation" (BibTeX).
        model_name: Heading of the card; by default the last part of the name.
        dataset: What it was trained on: a dataset on the Hub, or words.
        tags: Beside "c3l".
    """
    on_hub = is_repository_name(base) and not Path(base).is_dir()
    shown = base if on_hub else Path(base).name or "(not named)"
    called = name if is_repository_name(name) else Path(name).name
    data = ModelCardData(
        base_model=base if on_hub else None,
        datasets=[dataset] if dataset and "/" in dataset and is_repository_name(dataset) else None,
        library_name="peft" if adapters else "transformers",
        pipeline_tag="image-text-to-text",
        tags=sorted({"c3l", *tags}),
    )
    return ModelCard.from_template(
        data,
        template_path=str(shipped("hub_cards") / "trainer_card.md"),
        model_name=plain(model_name or called.rpartition("/")[2]),
        adapters=adapters,
        base_on_hub=on_hub,
        base_shown=f"[{base}](https://huggingface.co/{base})" if on_hub else f"`{shown}`, a local one",
        # As Python writes texts.
        base_code=json.dumps(shown),
        name_code=json.dumps(called),
        dataset_name=plain(dataset) if dataset else None,
        paper_title=paper["title"],
        paper_id=paper["id"],
        citation=paper["citation"].strip(),
        versions={name: version for name, version in versions().items() if name in _SHOWN},
    )
