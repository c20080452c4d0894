"""``python -m toolkit_ext.cli``, for a checkout that is not installed."""

from toolkit_ext.cli import main

main()
