"""Who judges texts: classifiers, reward models and aspect models, services, and how each is read token by token."""
