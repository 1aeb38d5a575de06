"""The whole method: its stages from images to the published dataset, their options and the summary."""
