"""Floor 4: talk to a model, in the terminal or over HTTP."""
