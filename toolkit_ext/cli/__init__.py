"""The ``toolkit-ext`` command."""

from __future__ import annotations

import sys

import click

from toolkit_ext.cli.claims import claims_command
from toolkit_ext.cli.evaluate import evaluate_command
from toolkit_ext.cli.landscape import landscape_command
from toolkit_ext.cli.methods import methods_command
from toolkit_ext.cli.report import report_command
from toolkit_ext.cli.tables import plot_command, table_command
from toolkit_ext.cli.train import train_command
from toolkit_ext.console import say, set_up_logging
from toolkit_ext.errors import UserError
from toolkit_ext.trainers import NonFiniteLossError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="toolkit-ext")
def cli() -> None:
    """Adversarial training of timm models, evaluated by AutoAttack."""


for command in (
    methods_command,
    train_command,
    evaluate_command,
    landscape_command,
    table_command,
    plot_command,
    report_command,
    claims_command,
):
    cli.add_command(command)


def guarded(command: click.Command) -> None:
    """Run ``command`` with the process's arguments; bad input ends in one line and exit code 2."""
    set_up_logging()
    try:
        command.main(standalone_mode=False)
    except (UserError, click.ClickException) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        say(f"error: {message}")
        sys.exit(2)
    except NonFiniteLossError as error:
        say(f"error: {error}")
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        say("interrupted: all finished epochs and batches are saved; the same command with --resume goes on from there")
        sys.exit(130)


def main() -> None:
    """Entry point of ``toolkit-ext``."""
    guarded(cli)
