"""The rows of what a run publishes, with the images that they are about: streams, a few rows in memory at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Image, List, Value

from c3l_hf.common.progress import ProgressLine
from c3l_hf.common.shards import Shards
from c3l_hf.data.schema import PAIR_FEATURES, SCORE_FEATURES
from c3l_hf.data.stored_images import AT_ONCE, images_of_rows
from c3l_hf.data.streams import RowStream
from c3l_hf.pipeline.inputs import Inputs

__all__ = ["counted", "image_rows", "rows_of_examples", "stream_of", "with_images"]


def stream_of(shards: Shards, features: Features) -> RowStream:
    """The rows of a result, these columns."""

    def tables() -> Iterator[pa.Table]:
        return (pa.Table.from_batches([batch]).select(list(features)) for batch in shards.batches(size=100))

    return RowStream(features, shards.num_rows, tables)


def with_images(curated: Shards, inputs: Inputs) -> RowStream:
    """The curated rows with the images that they are about, as they are stored."""
    features = Features({**PAIR_FEATURES, **SCORE_FEATURES})

    def tables() -> Iterator[pa.Table]:
        for batch in curated.batches(size=AT_ONCE):
            images = images_of_rows(inputs.images.dataset, batch["image_row"].to_pylist())
            table = pa.Table.from_batches([batch]).append_column("images", images)
            yield table.select(list(features)).cast(features.arrow_schema)

    return RowStream(features, curated.num_rows, tables)


def rows_of_examples(curated: Shards, inputs: Inputs, examples: Sequence[tuple]) -> Dataset:
    """The rows of a card's examples."""
    rows = curated.table(["pair_id", "image_row"])
    rows = rows.filter(pc.is_in(rows["pair_id"], pa.array([example[-1] for example in examples], pa.string())))
    images = images_of_rows(inputs.images.dataset, rows["image_row"].to_pylist())
    features = Features({"pair_id": Value("string"), "images": List(Image())})
    return Dataset(rows.append_column("images", images).select(list(features)).cast(features.arrow_schema))


def image_rows(inputs: Inputs) -> RowStream:
    """All images, each once."""
    dataset = inputs.images.dataset
    features = Features({"image_id": Value("string"), "images": List(Image())})

    def tables() -> Iterator[pa.Table]:
        for start in range(0, len(dataset), AT_ONCE):
            rows = range(start, min(start + AT_ONCE, len(dataset)))
            ids = dataset.select(rows).with_format("arrow")["image_id"][:]
            columns = [pa.array(map(str, ids.to_pylist()), pa.string()), images_of_rows(dataset, rows)]
            yield pa.table(columns, names=list(features)).cast(features.arrow_schema)

    return RowStream(features, len(dataset), tables)


def counted(streams: Mapping[str, RowStream], line: ProgressLine) -> dict[str, RowStream]:
    """The same streams, whose rows a progress line counts as they are read."""

    def over(stream: RowStream) -> RowStream:
        return replace(stream, tables=lambda: line.over(stream.tables()))

    return {name: over(stream) for name, stream in streams.items()}
