"""Other libraries of adversarial training and attacks, each in a process of its own, beside the engine."""
