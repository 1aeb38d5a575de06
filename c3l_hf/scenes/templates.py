"""What the world's generator is asked, and how it writes a pair: the set "scenes" of prompt templates."""

from c3l_hf.prompts.template_files import load_templates

__all__ = ["QUESTION_TYPES", "TEMPLATES", "format_pair"]

TEMPLATES = load_templates("scenes")
QUESTION_TYPES = ("presence", "count", "colour", "where", "relation", "group", "description")


def format_pair(question: str, answer: str) -> str:
    """A pair as the generator writes it, whatever words are in it; `prompts.parsing.parse_pair` reads it."""
    return f"Question: {question}\nAnswer: {answer}"
