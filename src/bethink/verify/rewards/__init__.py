"""Rewards for reinforcement learning: what a completion earns, part by part, and when the parts tell against each other."""
