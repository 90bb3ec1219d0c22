"""What a run will need, before it is paid for: a dry run without data, memory, and cost."""
