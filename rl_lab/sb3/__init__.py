"""What agents of stable-baselines3 share: the bench's games as it sees them, its replay, and its files read safely.

Knows `stable_baselines3.common` only. The algorithms are the agents' (agents/sb3_*.py); nothing of them is subclassed
or patched.
"""
