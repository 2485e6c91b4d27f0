"""Floor 2: weights, adapters, and the one attention function that serves training and decoding."""
