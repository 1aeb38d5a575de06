"""POPE, SEED-Bench, MMBench and LLaVA-Bench."""
