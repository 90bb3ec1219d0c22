"""One training step, the loop around it, and what a run keeps to go on after an interruption."""
