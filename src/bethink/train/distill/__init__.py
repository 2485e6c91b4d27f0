"""Knowledge distillation: a student learns a teacher's probabilities, on rows or on what it writes itself (run.py)."""
