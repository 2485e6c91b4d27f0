"""Reinforcement learning with verifiable rewards: rollouts, advantages, the policy loss. Curricula are `train/curricula`'s."""
