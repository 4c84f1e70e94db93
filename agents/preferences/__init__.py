"""Learning from preferences: DPO, SimPO, TDPO, SELM, and T-REG's regularization token by token."""
