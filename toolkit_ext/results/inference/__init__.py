"""Inference from runs: estimates over seeds and test images, shares of runs, several tests at once."""
