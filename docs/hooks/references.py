"""The API reference: the public names of each package, and hyper-parameters with their help as their text."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[2]
# The title of the page of each package, in docs/reference/NAME.md.
PACKAGES = {
    "trainers": "Trainers",
    "evaluation": "Evaluation",
    "evaluation.lightning": "Lightning",
    "updates": "Updates",
    "attacks": "Attacks",
    "attacks.adaptive": "Adaptive attacks",
    "objectives": "Objectives",
    "schedules": "Schedules",
    "data": "Data",
    "backbones": "Backbones",
    "landscape": "Landscape",
    "results": "Results",
    "experiments.settings": "Settings of a run",
}


def public_names(package: str) -> dict[str, str]:
    """The public names of a package, and where each is defined: read from its stub or its source, not imported."""
    folder = ROOT / "toolkit_ext" / package.replace(".", "/")
    file = next((folder / name for name in ("__init__.pyi", "__init__.py") if (folder / name).exists()), None)
    tree = ast.parse((file or folder.with_suffix(".py")).read_text())
    here = f"toolkit_ext.{package}"
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            source = f"{here}.{node.module}" if node.level else node.module or ""
            found |= {alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names}
    if file and file.suffix == ".pyi":
        return found
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    names = listed[0] if listed else [getattr(node, "name", "_") for node in tree.body]
    return {name: found.get(name, f"{here}.{name}") for name in names if not name.startswith("_")}


def reference_page(package: str) -> str:
    """The page of a package: its docstring, then classes and functions."""
    names = public_names(package)
    lines = [f"# {PACKAGES[package]}\n", f"::: toolkit_ext.{package}\n    options: {{members: false}}\n"]
    for name in sorted(names, key=lambda each: (each.isupper(), not each[0].isupper(), each)):
        if names[name].startswith("toolkit_ext."):
            lines.append(f"::: {names[name]}\n    options: {{show_root_heading: true, show_root_toc_entry: true}}\n")
    return "\n".join(lines)


class Options(griffe.Extension):
    """Shows a hyper-parameter, made by ``option(default, help, bounds)``, as a parameter with its default and help."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called by griffe with each class that it has read."""
        lines = []
        for name, member in cls.members.items():
            call = getattr(member, "value", None)
            if isinstance(call, griffe.ExprCall) and str(call.function) == "option":
                default, text = call.arguments[:2]
                member.value = default  # type: ignore[union-attr]
                lines.append(f"    {name}: {written(text, cls.module)}")
        if lines and cls.docstring and "Args:" not in cls.docstring.value:
            cls.docstring.value = "\n".join([cls.docstring.value, "", "Args:", *lines])


def written(text: Any, module: griffe.Module) -> str:
    """A text that stands in the source as a literal or an f-string, with the values of the module's own names."""

    def shown(part: ast.expr) -> str:
        if isinstance(part, ast.JoinedStr):
            return "".join(map(shown, part.values))
        if isinstance(part, ast.Constant):
            return str(part.value)
        named = module.members.get(ast.unparse(part.value if isinstance(part, ast.FormattedValue) else part))
        return shown(ast.parse(str(named.value), mode="eval").body) if isinstance(named, griffe.Attribute) else "..."

    return shown(ast.parse(str(text), mode="eval").body)
