"""The processes ("ranks") of one job. For a single process, :data:`ALONE`, everything here does nothing."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
