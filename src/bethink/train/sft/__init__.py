"""Supervised fine-tuning of the toggle: curated rows in, an adapter or a model out (run.py)."""
