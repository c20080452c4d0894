"""The groups of claims that the recipes of a folder define."""

from __future__ import annotations

import runpy
from pathlib import Path

from toolkit_ext.claims.claim import Group
from toolkit_ext.errors import UserError


def load_groups(folder: Path | str) -> list[Group]:
    """The ``GROUP`` of every script in ``folder``, in the order of their numbers.

    Raises:
        UserError: no such folder, no scripts, one without a ``GROUP`` or with another name than its file's, or two of
            one number.
    """
    files = sorted(Path(folder).glob("*.py"))
    if not files:
        raise UserError(f"--recipes: {folder} holds no claims; it must be a folder of scripts that define GROUP")
    groups = [_load(file) for file in files]
    numbers = [group.number for group in groups]
    for group in groups:
        if numbers.count(group.number) > 1:
            raise UserError(f"--recipes: two scripts of {folder} define claim {group.number}")
    return sorted(groups, key=lambda group: group.number)


def _load(file: Path) -> Group:
    found = runpy.run_path(str(file), run_name="claims").get("GROUP")
    if not isinstance(found, Group):
        raise UserError(f"--recipes: {file} does not define GROUP, a toolkit_ext.claims.Group")
    if found.name != file.stem:
        raise UserError(f"--recipes: GROUP of {file} is named {found.name!r}; it must have the file's name")
    return found
