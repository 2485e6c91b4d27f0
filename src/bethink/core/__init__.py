"""Floor 1: errors, files, configuration, seeds and the terminal. Knows nothing of models."""
