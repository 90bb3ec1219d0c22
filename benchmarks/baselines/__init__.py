"""The plain PyTorch that trainers write, to beat."""
