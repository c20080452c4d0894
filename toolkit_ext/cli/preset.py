"""``train`` without METHOD: the preset of the data set, which given options replace."""

from __future__ import annotations

import click
from click.core import ParameterSource

from toolkit_ext.errors import UserError
from toolkit_ext.experiments.presets import preset_for
from toolkit_ext.trainers.methods import METHODS


def take_preset(ctx: click.Context) -> str:
    """Give ``train`` the preset's values of all options that the user did not give; no METHOD was named.

    Returns:
        What was taken, and where its settings come from.

    Raises:
        UserError: no data set is named, or there is no preset for it.
    """
    if by_default(ctx, "data"):
        raise UserError(
            f"METHOD: none is given; name one of {', '.join(METHODS)}, or --data, whose preset is then taken"
        )
    preset = preset_for(ctx.params["data"])
    given = {name: value for name, value in ctx.params.items() if not by_default(ctx, name)}
    ctx.params |= {"method": preset.method, **preset.with_options(given)}
    return f"preset for {ctx.params['data']}: {preset.method}; {preset.source}"


def by_default(ctx: click.Context, name: str) -> bool:
    """Whether the user gave no value for the option ``name``, neither in words nor in a file."""
    return ctx.get_parameter_source(name) is ParameterSource.DEFAULT
