"""The command `c3l`: one subcommand for each stage, and for what comes before and after a run."""

from c3l_hf.cli.dispatch import entry, main

__all__ = ["entry", "main"]
