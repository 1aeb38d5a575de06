"""The benchmarks' metrics, as `evaluate` modules, and how the text of an answer is read."""

from pathlib import Path

__all__ = ["METRICS", "metric_path"]

METRICS = ("llava_bench", "mmbench", "pope", "seed_bench")


def metric_path(name: str) -> str:
    """Where a metric is, for `evaluate.load`, in a checkout as after `pip install`.

    Example:

    ```python
    import evaluate
    import c3l_hf

    pope = evaluate.load(c3l_hf.metric_path("pope"))
    ```

    Args:
        name: One of `METRICS`.

    Raises:
        ValueError: If there is no such metric.
    """
    if name not in METRICS:
        raise ValueError(f"no metric {name!r}; there are {', '.join(METRICS)}")
    return str(Path(__file__).parent / name)
