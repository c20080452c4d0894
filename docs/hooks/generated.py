"""Hooks of MkDocs that make pages: the reference of the command line, the gallery of examples, and the notebooks."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File

from toolkit_ext.cli import COMMANDS, cli
from toolkit_ext.cli.help import HEADINGS, heading_of

sys.path.insert(0, str(Path(__file__).parent))
from references import PACKAGES, reference_page

GALLERY = Path(__file__).parents[1] / "gallery"
NOTEBOOKS = GALLERY.with_name("notebooks")


def escaped(text: str) -> str:
    """Plain text as a cell of a table."""
    return re.sub(r"([|<\\_*\[\]`$])", r"\\\1", " ".join(text.split()))


def groups(command: click.Command) -> dict[str, list[click.Option]]:
    """The visible options of ``command`` under the headings of its ``--help``."""
    own = getattr(command, "headings", {})
    found: dict[str, list[click.Option]] = {heading: [] for heading in (*HEADINGS, "Options")}
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            heading = own.get(param.name) or heading_of(param.name or "") or "Options"
            found.setdefault(heading, []).append(param)
    return {heading: options for heading, options in found.items() if options}


def command_section(name: str, command: click.Command) -> Iterator[str]:
    """One command: usage, what it does, a table of options for each heading."""
    context = click.Context(command, info_name=f"toolkit-ext {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## {name}\n\n```text\ntoolkit-ext {name} {usage}\n```\n"
    for paragraph in (command.help or "").replace("\b", "").split("\n\n"):
        yield f"{escaped(paragraph)}\n"
    for heading, options in groups(command).items():
        yield f"**{heading}**{{ .options }}\n\n| option | |\n| --- | --- |"
        for option in options:
            flags, text = option.get_help_record(context) or ("", "")
            yield f"| `{flags}` | {escaped(text)} |"
        yield ""


def commands_page() -> str:
    """The reference of the command line."""
    lines = ["# Command line\n", "Made from the code, as `toolkit-ext COMMAND --help` shows it.\n"]
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        lines += command_section(name, command) if command else []
    return "\n".join(lines)


def gallery_page() -> str:
    """The gallery: for each script its title, what it shows, its picture and its code."""
    lines = [(GALLERY / "head.txt").read_text()]
    for script in sorted(GALLERY.glob("*.py")):
        code = script.read_text()
        title, _, about = (ast.get_docstring(ast.parse(code)) or "").partition("\n")
        body = code.partition('"""\n\n')[2]
        lines.append(f"## {title.rstrip('.')}\n\n{about.strip()}\n\n![{title}](images/{script.stem}.png)\n")
        lines.append(f'```python title="docs/gallery/{script.name}"\n{body.strip()}\n```\n')
    return "\n".join(lines)


def notebook_page(notebook: Path) -> str:
    """A notebook as a page: text, code, and what the code printed."""
    lines = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"]).strip()
        lines.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        printed = "".join(text for output in cell.get("outputs", []) for text in output.get("text", []))
        lines += [f"```text\n{printed.strip()}\n```"] if printed.strip() else []
    return "\n\n".join([*lines, f"The notebook: [docs/notebooks/{notebook.name}]({notebook.name})."])


def on_files(files: Any, config: Any) -> Any:
    """Called by MkDocs with the files of the site."""
    pages = {f"reference/{name.rpartition('.')[2]}.md": reference_page(name) for name in PACKAGES}
    pages |= {"reference/cli.md": commands_page(), "gallery/index.md": gallery_page()}
    pages |= {f"notebooks/{path.stem}.md": notebook_page(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files
