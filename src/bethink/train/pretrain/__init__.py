"""Next-token training from random weights: texts in, a base model out (run.py)."""
