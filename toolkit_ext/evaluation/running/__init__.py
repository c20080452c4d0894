"""Batches of an evaluation that resume: the runner, its state, and the check of every success."""
