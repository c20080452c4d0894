"""Experiments from data to record: one run, sweeps of many, presets, costs, and what recipe scripts share."""
