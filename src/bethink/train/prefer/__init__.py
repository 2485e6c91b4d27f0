"""Learning from preferences: pairs of completions in, a policy that prefers the better one out, or a model of what is preferred (run.py)."""
