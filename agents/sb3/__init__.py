"""Stable-Baselines3 and sb3-contrib on text environments: policies, callbacks, large vocabularies."""
