"""`python -m c3l_hf` is the command `c3l`."""

from c3l_hf.cli import entry

if __name__ == "__main__":
    entry()
