"""The whole method."""
