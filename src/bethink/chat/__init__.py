"""Floor 1: the one place that knows the toggle, the think tags and the chat template."""
