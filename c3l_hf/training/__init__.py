"""Contrastive training of the generator on pseudo-labels."""
