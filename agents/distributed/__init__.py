"""More processes and machines under `torchrun`: who they are, what they tell each other, whose weights stand where."""
