"""A plan of a run, in numbers: operations, tokens, bytes, memory and time of each stage, before anything is fetched.

By the model's configuration and processor alone; weights are neither needed nor fetched, and nothing is written. With
"here" in place of a GPU's name a short run on this machine is measured (`calibration`), and the plan says so.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from transformers import ProcessorMixin

from c3l_hf.common.errors import RowError, RunError, said_by
from c3l_hf.common.plain import plain
from c3l_hf.common.processes import process_state
from c3l_hf.common.usage import format_bytes
from c3l_hf.data.stored_images import stored_images
from c3l_hf.files.image import open_image
from c3l_hf.models.loading import Source, fetched, load_processor, resolve_dtype
from c3l_hf.pipeline.accelerators import Hardware, read_hardware
from c3l_hf.pipeline.calibration import Calibration, calibrate
from c3l_hf.pipeline.dry_run import images_to_try
from c3l_hf.pipeline.inputs import open_inputs, with_image_comparison
from c3l_hf.pipeline.memory_needed import bytes_of_weight, memory_free
from c3l_hf.pipeline.options import STAGES
from c3l_hf.pipeline.plan_images import ImageCosts, image_costs, read_size
from c3l_hf.pipeline.plan_model import ModelCosts, model_costs, read_model
from c3l_hf.pipeline.plan_room import BYTES_OF_PIXEL, Storage, device_memory, host_memory, storage_of
from c3l_hf.pipeline.plan_time import Timed, alone, measured, timed
from c3l_hf.pipeline.plan_work import Stage, Texts, work_of
from c3l_hf.pipeline.settings import Settings

__all__ = ["Plan", "make_plan"]

_USUAL_SIZE = "1024x768"


@dataclass(frozen=True)
class Plan:
    """A plan, in numbers.

    Attributes:
        model: The generator's name.
        costs, image: What its parts cost, and an image of the planned size.
        images, pairs: Of a round.
        hardware: What it is planned for.
        texts: Tokens of texts.
        stages: Those with a model: what they have to do.
        times: Stage → how long it takes; a stage that cannot be told is missing.
        storage: Bytes on disk and for the Hub.
        memory: Stage → bytes of one device.
        host: Bytes of the main process's memory.
        room: Bytes of memory that a device has, and what that is called.
        tried: What was measured for it; None if nothing was.
        remarks: What else is to be known.
    """

    model: str
    costs: ModelCosts
    image: ImageCosts
    images: int
    pairs: int
    hardware: Hardware
    texts: Texts
    stages: Mapping[str, Stage]
    times: Mapping[str, Timed]
    storage: Storage
    memory: Mapping[str, float]
    host: float
    room: tuple[float, str]
    tried: Calibration | None
    remarks: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of all stages that can be told."""
        return sum(time.seconds for time in self.times.values())

    @property
    def bottleneck(self) -> tuple[str, Timed]:
        """The stage that takes longest, and its time."""
        return max(self.times.items(), key=lambda one: one[1].seconds)

    def problems(self) -> list[str]:
        """What will not fit."""
        room, where = self.room
        stage, needed = max(self.memory.items(), key=lambda one: one[1])
        found = [f"{stage} needs {format_bytes(needed)}, and {where} has {format_bytes(room)}"] * (needed > room)
        return found + self.storage.problems()


def make_plan(settings: Settings) -> Plan:
    """Plans a run. `plan` of its options names the hardware.

    Raises:
        RunError: If the hardware or the size of images cannot be read, the number of images is not given, or the
            model's configuration cannot be found or understood.
    """
    assert settings.run.plan is not None
    hardware = read_hardware(settings.run.plan)
    size = read_size(settings.run.plan_image_size or _USUAL_SIZE)
    images, tried, of_image = settings.images.num_images, None, BYTES_OF_PIXEL * size[0] * size[1]
    if hardware.here:
        if settings.run.plan_image_size is not None:
            raise RunError("plan_image_size is given, but with plan here the images themselves are measured")
        tried, size, there = _try(settings)
        images, of_image = images or there, tried.bytes_of_image
        device = process_state().device
        hardware = hardware.known_as(torch.cuda.get_device_name(device) if device.type == "cuda" else None)
    elif settings.run.calibrate is not None:
        raise RunError(f"calibrate is {settings.run.calibrate}, but a GPU's plan measures nothing; plan here does")
    if images is None:
        raise RunError("num_images is missing: a plan opens no images, so it does not know how many there are")
    if not hardware.here and settings.model.dtype == "float32":
        raise RunError("dtype is float32, but what is known of GPUs is their rate in bfloat16; add dtype bfloat16")
    if not hardware.here and settings.model.dtype == "auto":
        settings = replace(settings, model=replace(settings.model, dtype="bfloat16"))
    of_number = 4.0 if resolve_dtype(settings.model.dtype) == "float32" else 2.0
    of_weight = bytes_of_weight(settings)

    prompt, longest = _prompt(settings)
    generator = _model(settings, settings.model.model, settings.model.model_revision, size, prompt)
    scorer, judge = generator, settings.scoring.scorer_model
    if judge is not None:
        scorer = _model(settings, judge, settings.scoring.scorer_revision, size, prompt)
    texts = _texts(generator.image, longest, tried)
    pair = tried.pairs_per_image if tried is not None and tried.pairs_per_image else None
    pairs = round(images * (pair or settings.generation.pairs_per_image))
    both = (generator.costs, generator.image), (scorer.costs, scorer.image)
    stages = work_of(settings, *both, texts, images, hardware.devices, of_number, of_weight, pair)
    measured_pair = tried.bytes_of_pair if tried is not None else None
    storage = storage_of(settings, generator.costs, texts, images, pairs, of_image, of_number, measured_pair)
    served = ("generate", "regenerate") if settings.backend.backend == "server" else ()
    times: dict[str, Timed] = {}
    for name, stage in stages.items():
        loading = storage.model if name != "score" or judge is not None else 0.0
        time = timed(stage, hardware, loading) if tried is None else measured(stage, hardware, tried)
        if time is not None and name not in served:
            times[name] = time
    similar = _compares_pictures(settings)
    near = settings.curation.near_duplicate_scope == "dataset"
    times |= alone(pairs, storage.run - storage.tables, images * generator.image.megapixels * similar, near)
    wanted = STAGES[: 1 + max(STAGES.index(stage) for stage in settings.run.stages)]
    room = memory_free() if hardware.here else _memory_of(hardware)
    remarks = (*generator.remarks, *scorer.remarks, *_not_counted(settings))
    batch, k = settings.generation.generation_batch_size, settings.generation.pairs_per_image
    if tried is not None and tried.images * k < batch:
        remarks += (f"{tried.images:,} images fill no batch of {batch:,} replies: writing may take less than told",)
    return Plan(
        plain(settings.model.model),
        *both[0],
        images,
        pairs,
        hardware,
        texts,
        {name: stages[name] for name in wanted if name in stages},
        {name: times[name] for name in wanted if name in times},
        storage,
        device_memory(settings, *both, texts, of_number, of_weight),
        host_memory(settings, pairs),
        room,
        tried,
        tuple(dict.fromkeys(remarks)),
    )


@dataclass(frozen=True)
class _Model:
    costs: ModelCosts
    image: ImageCosts
    remarks: tuple[str, ...]


def _model(settings: Settings, name: str, revision: str | None, size: tuple[int, int], prompt: str) -> _Model:
    """A model without its weights, and an image of this size for it."""
    with_code = settings.training.trust_remote_code
    # A plan loads nothing, and so needs no package that quantises.
    base = settings.model.base_model if name == settings.model.model else None
    source = Source(name, revision, trust_remote_code=with_code, base_model=base)
    try:
        pinned = source.pinned()
        base, of_base = pinned.base_model, pinned.base_revision
        whole = pinned if base is None else replace(pinned, model_id=base, revision=of_base, base_model=None)
        folder = fetched(whole, with_weights=False)
    except (OSError, ValueError) as error:
        raise RunError(f"model {name} cannot be planned: {said_by(error)}") from None
    model = read_model(folder, name, with_code)
    processor, remarks = _processor(whole, folder, name)
    try:
        costs = model_costs(model)
    except ValueError as error:
        raise RunError(f"model {name} cannot be planned: {error}") from None
    if not costs.shares:
        remarks += (
            f"the attention of {plain(name)} lets no answers share an image in a sequence: each has one of its own",
        )
    return _Model(costs, image_costs(model, processor, size, prompt, name), remarks)


def _processor(source: Source, folder: Path, name: str) -> tuple[ProcessorMixin | None, tuple[str, ...]]:
    try:
        processor = load_processor(replace(source, model_id=str(folder), revision=None))
        if getattr(processor, "chat_template", None):
            return processor, ()
        why = "it has no chat template"
    except ImportError as error:  # the video part of some wants a package that is not here
        why = said_by(error, 100)
    except (OSError, ValueError, TypeError):
        why = "it has no files of one"
    return None, (f"image tokens by the configuration, without the processor of {plain(name)}: {why}",)


def _prompt(settings: Settings) -> tuple[str, int]:
    """What is asked about an image: of the templates that of middle length; and the longest reply."""
    asked = settings.generating(0)
    templates = [template for type in asked.asked_types for template in asked.template_set.of_type(type)]
    prompts = sorted((f"{one.system or ''}\n{one.user}".strip() for one in templates), key=len)
    longest = settings.generation.max_new_tokens or max(one.max_new_tokens for one in templates)
    return prompts[len(prompts) // 2], longest


def _texts(image: ImageCosts, longest: int, tried: Calibration | None) -> Texts:
    usual = Texts()
    reply = min(usual.reply, longest)
    texts = replace(usual, reply=reply, pair=min(usual.pair, reply), answer=min(usual.answer, reply), longest=longest)
    if image.text is not None:
        texts = replace(texts, prompt=image.text, source="prompts as the processor counts them, the rest assumed")
    if tried is None or tried.reply_tokens is None:
        return texts
    prompt = texts.prompt if tried.prompt_tokens is None else max(0.0, tried.prompt_tokens - image.tokens)
    answer = tried.answer_tokens or tried.reply_tokens
    # A reply has what is scored: the question and the answer.
    return Texts(prompt, tried.reply_tokens, tried.reply_tokens, answer, longest, "measured")


def _try(settings: Settings) -> tuple[Calibration, tuple[int, int], int]:
    """A short run; the size of an image in the middle, and how many images there are."""
    settings = replace(settings, run=replace(settings.run, dry_run=True))  # makes no file
    inputs = open_inputs(settings)
    count, why_not = images_to_try(settings, inputs, STAGES)
    if not count:
        raise RunError(f"plan is here, but nothing can be measured: {why_not}")
    return calibrate(settings, inputs, count), _size(inputs.images.dataset), len(inputs.images)


def _size(images: Dataset) -> tuple[int, int]:
    """Of the image in the middle."""
    for stored in stored_images(images, [len(images) // 2])[0]:
        with contextlib.suppress(RowError):
            return open_image(stored).size
    return read_size(_USUAL_SIZE)


def _not_counted(settings: Settings) -> list[str]:
    told = []
    if settings.generation.retries:
        told.append("not counted: images that are asked about again (retries)")
    if settings.curation.clusters is not None:
        told.append("not counted: the pass that makes vectors of pairs (clusters)")
    if settings.model.device_map is not None:
        told.append("device_map is not planned with: each device is counted with the whole model")
    return told


def _compares_pictures(settings: Settings) -> bool:
    """Whether all pictures are decoded once more to find those that look alike; a folder that is not here yet is taken
    for one of pictures."""
    curation, images = settings.curation, settings.images.images
    if curation.near_duplicate_images != "auto":
        return curation.near_duplicate_images == "similar"
    if images is not None and images.endswith("/") and not Path(images).exists():
        return True
    return with_image_comparison(curation, settings.images).near_duplicate_images == "similar"


def _memory_of(hardware: Hardware) -> tuple[float, str]:
    assert hardware.accelerator is not None
    return hardware.accelerator.memory, f"one {hardware.accelerator.name}"
