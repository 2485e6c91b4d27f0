"""Floor 4: training loops, losses, batches and checkpoints."""
