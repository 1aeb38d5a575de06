"""Rows and their images: column names, layouts, turns, sources, what is stored."""
