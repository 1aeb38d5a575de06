"""Rows and images: column names, layouts, sources, reading one image."""
