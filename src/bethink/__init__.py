"""bethink: turn a language model into one that thinks before it answers, and knows when not to."""

__version__ = "0.1.0"
