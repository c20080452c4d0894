"""Faster ways to compute single layers; only :mod:`toolkit_ext.fast` uses them."""
