"""Run records (``results/runs/<run_id>.json``, written once, never edited), and the tables and figures made of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
