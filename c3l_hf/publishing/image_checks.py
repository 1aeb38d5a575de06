"""Checks of a published dataset's pictures: all can be read, each is there once, none is missing or says too much."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from c3l_hf.common.errors import RowError
from c3l_hf.data.schema import STATUS, STATUS_OK
from c3l_hf.files.decoders import opened
from c3l_hf.files.image import image_key, open_image
from c3l_hf.files.metadata import without_metadata
from c3l_hf.publishing.manifest import Manifest
from c3l_hf.publishing.reading import Mismatch, columns_of, read_batches, read_rows

__all__ = ["check_images", "first_with_metadata"]


def check_images(folder: Path, manifest: Manifest) -> str:
    """All pictures can be read. "images" has each image once, those of all pairs, and the ones that "default" has."""
    readable: set[object] = set()
    for config in manifest.configs.values():
        if "images" not in columns_of(folder, config):
            continue
        for where, row in read_rows(folder, config, ["images"]):
            for image in row["images"] or ():
                key = image_key(image)
                if key not in readable:
                    try:
                        open_image(image)
                    except ValueError as error:
                        raise Mismatch(f"{where}: {error}") from None
                    readable.add(key)
    for path in manifest.files:
        if path.startswith(("examples/", "figures/")):
            with opened(folder / path) as picture:
                picture.verify()
    result = f"{len(readable):,} different ones, all can be read"
    if "images" in manifest.configs:
        with_picture, without = _check_store(folder, manifest)
        for name in manifest.configs.keys() - {"default", "images"}:
            _check_pairs_have_images(folder, manifest, name, with_picture, without)
        result += f"; {len(with_picture) + len(without):,} images once each, those of all pairs"
    return result


def first_with_metadata(folder: Path, manifest: Manifest) -> str | None:
    """Where the first picture is whose file says, or may say, more than how it looks (`files.metadata`); or None."""
    for where, row in read_rows(folder, manifest.configs.get("images", manifest.configs["default"]), ["images"]):
        for image in row["images"] or ():
            try:
                if without_metadata(image["bytes"]).content != image["bytes"]:
                    return where
            except RowError:  # damaged: nobody can tell
                return where
    return None


def _check_store(folder: Path, manifest: Manifest) -> tuple[set[str], set[str]]:
    """Compares "default" with "images"; returns the ids of images with a picture and of those without."""
    of_default: dict[str, tuple[str, list[object]]] = {}
    for where, row in read_rows(folder, manifest.configs["default"], ["image_id", "images"]):
        keys = [image_key(image) for image in row["images"] or ()]
        if not keys or of_default.setdefault(row["image_id"], (where, keys))[1] != keys:
            raise Mismatch(f"{where}: it has no picture, or another one than a row about the same image")
    with_picture: set[str] = set()
    without: set[str] = set()
    for where, row in read_rows(folder, manifest.configs["images"], ["image_id", "images"]):
        image_id, keys = row["image_id"], [image_key(image) for image in row["images"] or ()]
        if image_id is None or image_id in with_picture or image_id in without:
            raise Mismatch(
                f"{where}: image {image_id!r:.60} is {'without a name' if image_id is None else 'there twice'}"
            )
        (with_picture if keys else without).add(image_id)
        if image_id in of_default:
            where, keys_of_default = of_default.pop(image_id)
            if keys_of_default != keys:
                raise Mismatch(f"{where}: its picture is not that of image {image_id!r:.60} in images")
    for image_id, (where, _) in of_default.items():
        raise Mismatch(f"{where}: its image {image_id!r:.60} is not in images")
    return with_picture, without


def _check_pairs_have_images(
    folder: Path, manifest: Manifest, name: str, with_picture: set[str], without: set[str]
) -> None:
    """Every row's image is there, and has a picture unless its pairs have no score."""
    config = manifest.configs[name]
    status = [STATUS] if STATUS in columns_of(folder, config) else []
    ids, empty = pa.array(list(with_picture), pa.string()), pa.array(list(without), pa.string())
    for path, start, batch in read_batches(folder, config, ["image_id", *status]):
        there = pc.is_in(batch["image_id"], value_set=ids)
        if status:
            no_score = pc.not_equal(batch[STATUS], STATUS_OK)
            there = pc.or_(there, pc.and_(no_score, pc.is_in(batch["image_id"], value_set=empty)))
        if not pc.all(there).as_py():
            number = pc.index(there, False).as_py()
            image_id = batch["image_id"][number].as_py()
            raise Mismatch(f"{path}, row {start + number}: images has no picture of its image {image_id!r:.60}")
