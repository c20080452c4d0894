"""The elements of a page of HTML, for tests."""

from __future__ import annotations

from html.parser import HTMLParser


class Parts(HTMLParser):
    """Elements with their attributes in order, and whether every one that was opened was closed."""

    VOID = frozenset({"meta", "img", "br", "input", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str, **having: str) -> list[dict[str, str | None]]:
        """The attributes of every element ``tag`` that has those given."""
        return [a for name, a in self.elements if name == tag and having.items() <= a.items()]
