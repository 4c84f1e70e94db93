"""Who samples a rollout: the policy itself, or a server beside the training that follows its weights."""
