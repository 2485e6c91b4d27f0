"""Floor 4: raw post-training rows in, a clean curriculum out."""
