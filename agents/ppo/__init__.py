"""PPO over tokens, and the advantage estimators that do without a value model."""
