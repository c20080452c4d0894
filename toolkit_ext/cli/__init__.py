"""The ``toolkit-ext`` command."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from toolkit_ext.cli.console import say, say_error, set_up_logging
from toolkit_ext.errors import RunError, UserError
from toolkit_ext.fast import allocator

# Module and text in the list of commands; a command is imported when it is used.
COMMANDS = {
    "methods": (
        "train:methods_command",
        "List the methods with their choices on the axes, their cost and their paper.",
    ),
    "train": ("train:train_command", "Train a method on a data set and evaluate it by AutoAttack."),
    "sweep": ("sweep:sweep_command", "Train several methods with several seeds and settings."),
    "evaluate": ("evaluate:evaluate_command", "Evaluate a model by AutoAttack."),
    "landscape": ("landscape:landscape_command", "Measure the adversarial loss landscape of a model."),
    "table": ("records:table_command", "Print means and standard deviations of recorded runs."),
    "plot": ("records:plot_command", "Plot recorded runs."),
    "compare": ("records:compare_command", "Compare two recorded runs, image by image."),
    "report": ("records:report_command", "Write all runs to one HTML page."),
    "claims": ("records:claims_command", "Rebuild CLAIMS.md and its figures from the records."),
}


CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


class _LazyGroup(click.Group):
    """A group that imports a command when it is used, so that ``--help`` does not wait for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"toolkit_ext.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings=CONTEXT_SETTINGS)
@click.version_option(package_name="toolkit-ext")
def cli() -> None:
    """Adversarial training of timm models, evaluated by AutoAttack."""


def guarded(command: click.Command) -> None:
    """Run ``command`` with the process's arguments; bad input ends in one line and exit code 2."""
    set_up_logging()
    allocator.retain_freed()
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        say(f"error: {error.format_message()}")
        sys.exit(2)
    except (UserError, RunError) as error:
        say_error(str(error))
        sys.exit(2 if isinstance(error, UserError) else 1)
    except (KeyboardInterrupt, click.Abort):
        say("interrupted: all finished epochs and batches are saved; the same command with --resume goes on from there")
        sys.exit(130)


def main() -> None:
    """Entry point of ``toolkit-ext``."""
    guarded(cli)
