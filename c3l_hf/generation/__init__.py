"""Images → instruction/answer pairs."""
