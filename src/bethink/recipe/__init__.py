"""Floor 5: ordered stages, a run directory that resumes, and a report."""
