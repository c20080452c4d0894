"""``toolkit-ext report``: every run on one page, in one HTML file that needs no network.

The table is DataTables (from ``itables``), the charts are Plotly's (from ``plotly``); both are taken from the installed
packages, licences included, when the page is written: ``pip install toolkit-ext[report]``.
"""

from toolkit_ext.report.charts import load_pairs, picture, pictures
from toolkit_ext.report.landscape import landscape_pictures
from toolkit_ext.report.page import page, write_page

__all__ = ["landscape_pictures", "load_pairs", "page", "picture", "pictures", "write_page"]
