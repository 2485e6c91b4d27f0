"""Curricula for reinforcement learning: which problems a step draws.

`api.py` is what a trainer sees of one. `shuffled.py` draws all problems alike, `progressive.py` goes from easy to hard by pass rates measured
before (read by `pass_rates.py`), `mastery.py` opens one level after the other. `draws.py` is what they share, `plot.py` their pictures.
"""
