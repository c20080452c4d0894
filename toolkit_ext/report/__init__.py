"""``toolkit-ext report``: all runs in one HTML file that needs no network.

DataTables (of ``itables``) and Plotly are copied from the installed packages: ``pip install toolkit-ext[report]``.
"""

from toolkit_ext.report.board import board, write_board
from toolkit_ext.report.charts import load_pairs, picture, pictures
from toolkit_ext.report.landscape import landscape_pictures
from toolkit_ext.report.page import page, write_page
from toolkit_ext.report.studies import study_pictures

__all__ = [
    "board",
    "landscape_pictures",
    "load_pairs",
    "page",
    "picture",
    "pictures",
    "study_pictures",
    "write_board",
    "write_page",
]
