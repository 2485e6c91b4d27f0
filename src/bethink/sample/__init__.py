"""A model's own answers as training rows: asked and graded as in an evaluation, filtered, written in curate's input schema."""
