"""Floor 4: how good a model is, thinking on and off, and whether one is better than another."""
