"""The benchmarks' metrics, as `evaluate` modules."""
