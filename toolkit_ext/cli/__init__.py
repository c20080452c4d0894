"""The ``toolkit-ext`` command."""

from __future__ import annotations

import sys

import click

from toolkit_ext.cli.claims import claims_command
from toolkit_ext.cli.console import say, say_error, set_up_logging
from toolkit_ext.cli.evaluate import evaluate_command
from toolkit_ext.cli.landscape import landscape_command
from toolkit_ext.cli.methods import methods_command
from toolkit_ext.cli.report import report_command
from toolkit_ext.cli.sweep import sweep_command
from toolkit_ext.cli.tables import plot_command, table_command
from toolkit_ext.cli.train import train_command
from toolkit_ext.errors import UserError
from toolkit_ext.fast import allocator as memory
from toolkit_ext.ranks import RankError
from toolkit_ext.trainers import NonFiniteLossError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="toolkit-ext")
def cli() -> None:
    """Adversarial training of timm models, evaluated by AutoAttack."""


for command in (
    methods_command,
    train_command,
    sweep_command,
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
    memory.keep_freed_memory()
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        say(f"error: {error.format_message()}")
        sys.exit(2)
    except UserError as error:
        say_error(str(error))
        sys.exit(2)
    except (NonFiniteLossError, RankError) as error:
        say_error(str(error))
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        say("interrupted: all finished epochs and batches are saved; the same command with --resume goes on from there")
        sys.exit(130)


def main() -> None:
    """Entry point of ``toolkit-ext``."""
    guarded(cli)
