"""Doors for models: files, own modules, ART classifiers, ensembles, and the checks they pass."""
