"""Versions of what a result depends on."""

import importlib.metadata
import platform

__all__ = ["versions"]

_PACKAGES = (
    "c3l-hf",
    "accelerate",
    "datasets",
    "huggingface_hub",
    "numpy",
    "peft",
    "pillow",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a run's result depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}
