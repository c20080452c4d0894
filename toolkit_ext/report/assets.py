"""The libraries of the page, compressed, with their licences, and the page's own style and script."""

from __future__ import annotations

import base64
import gzip
import importlib.util
from functools import cache
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

from toolkit_ext.errors import UserError


def template(name: str) -> str:
    """The text of a file in ``toolkit_ext/report/templates``."""
    return (files("toolkit_ext.report") / "templates" / name).read_text(encoding="utf-8")


def packed(text: str) -> str:
    """``text`` gzipped, without a time, in base64: a third of the size, and nothing in it that ends a script."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UserError(f"report: {package} is not installed; install the extra: pip install 'toolkit-ext[report]'")
    return Path(found.origin).parent


@cache
def table_script() -> str:
    """DataTables with jQuery, an ES module, packed."""
    return packed((_folder("itables") / "html" / "dt_bundle.js").read_text(encoding="utf-8"))


@cache
def table_style() -> str:
    """The style sheet of DataTables."""
    return (_folder("itables") / "html" / "dt_bundle.css").read_text(encoding="utf-8")


@cache
def chart_script() -> str:
    """Plotly, packed."""
    return packed((_folder("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8"))


@cache
def licences() -> dict[str, str]:
    """The licence of each package whose code is on the page, by name and version."""
    found = {}
    for package in ("itables", "plotly"):
        _folder(package)
        about = distribution(package)
        texts = [
            file for file in about.files or [] if file.name.upper().startswith("LICEN") and ".dist-info" in str(file)
        ]
        found[f"{package} {about.version}"] = "\n\n".join(
            Path(str(file.locate())).read_text(encoding="utf-8") for file in texts
        )
    return found
