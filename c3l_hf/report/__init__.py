"""The report: what is shown, charts, and one page to look at."""
