"""Is this program right? Programs that a model wrote, run in a sandbox and judged outside of it."""
