"""Students fine-tuned on a curated dataset."""
