"""POPE, SEED-Bench, MMBench and LLaVA-Bench: questions, a model's answers, their judge, figures, comparisons."""
