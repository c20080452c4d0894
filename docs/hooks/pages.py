"""Hooks of MkDocs that change pages: links to files outside of docs/, and mathematics as MathML."""

from __future__ import annotations

import html
import posixpath
import re
from typing import Any

from latex2mathml.converter import convert

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
_PACKAGE = re.compile(r"toolkit_ext/(\w+)/__init__\.py")  # has a page of the reference
_MATHEMATICS = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def outside(target: str, page: str) -> str | None:
    """The path from the top of the repository of a link on ``page``, if it leads out of docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith("docs/") and not path.endswith(".py") else path


def without_outside_links(markdown: str, page: str, repository: str) -> str:
    """``markdown`` with links out of docs/ led to ``repository``, or, without one, written as text and path.

    A link to the source of a package leads to its page of the reference.
    """

    def replaced(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        path = outside(target, page)
        if path is None:
            return match[0]
        if package := _PACKAGE.fullmatch(path):
            here = posixpath.relpath(f"reference/{package[1]}.md", posixpath.dirname(page) or ".")
            return f"[{text}]({here})"
        if repository:
            return f"[{text}]({repository.rstrip('/')}/{path}{anchor or ''})"
        return f"`{path}`" if text.strip("`/") in path else f"{text} (`{path}`)"

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _LINK.sub(replaced, part) for part in parts)


def with_mathml(page: str) -> str:
    """The HTML of a page with its LaTeX formulas as MathML, which browsers show without a script."""

    def converted(match: re.Match[str]) -> str:
        kind, opening, formula = match.groups()
        latex = html.unescape(formula.strip())
        if opening == "[":  # a formula on a line of its own has what it minimises over below "min"
            made = convert(re.sub(r"\\(min|max)_", r"\\\1\\limits_", latex), display="block")
        else:
            made = convert(latex)
        return f'<{kind} class="mathematics">{made}</{kind}>'

    return _MATHEMATICS.sub(converted, page)


def without_roles(page: str) -> str:
    """The HTML of docstrings without the roles and colons of reStructuredText."""
    page = re.sub(
        r":(?:class|func|mod|data|meth|attr):<code>[~.]?(?:toolkit_ext\.)?(.*?)</code>", r"<code>\1</code>", page
    )
    return page.replace("::</p>", ":</p>")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Called by MkDocs with the Markdown of each page."""
    return without_outside_links(markdown, page.file.src_uri, config.extra.get("repository") or "")


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Called by MkDocs with the HTML of each page."""
    return with_mathml(without_roles(html))
