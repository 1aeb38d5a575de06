"""Pairs → scores of how much the image matters to the answer."""
