"""Prompt templates: what a generator is asked, and how its reply is read and written."""
