"""Scored pairs → pseudo-labels, and the compact dataset."""
