"""Pictures for the card of a dataset: the report's own charts, as PNG."""

from c3l_hf.report.charts import as_png
from c3l_hf.report.overview import score_drawing, share_drawing
from c3l_hf.report.sources import Source

__all__ = ["card_figures"]


def card_figures(source: Source) -> dict[str, bytes]:
    """How the scores are spread, and the shares of types before and after the choice, of a written dataset.

    Returns:
        Path in the dataset's folder → content; without those for which there is nothing to be drawn.
    """
    pool = source.pools[0]
    figures = {}
    if (scores := score_drawing(pool, "i2c", "i2c", "scores")) is not None:
        figures["figures/scores.png"] = as_png(scores[0])
    if (types := share_drawing(pool, "type", "types of question")) is not None:
        figures["figures/types.png"] = as_png(types[0], types[2])
    return figures
