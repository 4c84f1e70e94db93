"""ETPO: soft Q-values over the whole vocabulary."""
