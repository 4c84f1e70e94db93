"""How models are fitted: the one supervised loop, and reward models."""
