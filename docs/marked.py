"""Pages with parts that scripts make: what stands between ``<!-- NAME -->`` and ``<!-- end -->`` is made anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pandas as pd

END = "<!-- end -->"


def rebuilt(page: str, parts: Mapping[str, Callable[[], Iterable[str]]]) -> str:
    """``page`` with the lines of every one of ``parts`` in its place.

    Raises:
        ValueError: the page has no place for one of them.
    """
    for name, lines in parts.items():
        start = f"<!-- {name} -->\n"
        head, found, rest = page.partition(start)
        _, end, tail = rest.partition(END)
        if not (found and end):
            raise ValueError(f"there must be a line {start.strip()}, and {END} after it")
        page = head + start + "".join(f"{line}\n" for line in lines()) + end + tail
    return page


def machine(found: pd.DataFrame) -> str:
    """The processor, threads and torch that a table of benchmarks was measured on."""
    about = found.iloc[0]
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    return f"{about['cpu']} ({about['flags']}), {threads}, torch {about['torch']}"
