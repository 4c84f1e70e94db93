"""Policies that search: best-of-N, reward-guided search, step search."""
