"""Measure a generator in the scenes world: its answers by question type, and the pairs it generates.

    python recipes/scenes/measure_scenes.py --model c3l_hf/scenes/generator --n 500 --pairs 700

Prints shares with sample sizes and 95 % intervals, on fresh scenes of the test split and on shifted ones, and writes
them as a Markdown table where `--output` says.
"""

from pathlib import Path

from trl import TrlParser

from c3l_hf.scenes.measurement import MeasurementOptions, measurement_table

if __name__ == "__main__":
    (options,) = TrlParser((MeasurementOptions,)).parse_args_and_config()
    table = measurement_table(options)
    print(table)
    if options.output:
        Path(options.output).write_text(f"{table}\n")
