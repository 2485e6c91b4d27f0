"""Floor 6: one Typer command, one file, a verb. Parses, calls, prints; heavy imports happen inside the verb."""
