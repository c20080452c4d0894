"""The ``toolkit-ext`` command."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from rich_click import RichGroup

from toolkit_ext.cli.console import say, say_error, set_up_logging
from toolkit_ext.cli.help import CONTEXT_SETTINGS
from toolkit_ext.cli.versions import show_versions
from toolkit_ext.errors import RunError, UserError, message_line, one_line
from toolkit_ext.fast import allocator

# What the system says of a path that was given wrongly: bad input, like every other wrong value.
_BAD_PATHS = {
    errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP,
    errno.EINVAL, errno.EROFS,
}  # fmt: skip

# Module and text in the list of commands; a command is imported when it is used.
COMMANDS = {
    "methods": (
        "methods:methods_command",
        "List the methods with their choices on the axes, their cost and their paper.",
    ),
    "train": ("train:train_command", "Train a method on a data set and evaluate it by AutoAttack."),
    "sweep": ("sweep:sweep_command", "Train several methods with several seeds and settings."),
    "tune": ("tune:tune_command", "Search hyper-parameters by validation robust accuracy."),
    "evaluate": ("evaluate:evaluate_command", "Evaluate a model by AutoAttack."),
    "certify": ("certify:certify_command", "Certify robustness in L2 by randomised smoothing."),
    "landscape": ("landscape:landscape_command", "Measure the adversarial loss landscape of a model."),
    "predict": ("predict:predict_command", "Print the class of images and its probability."),
    "export": ("export:export_command", "Write a model as ONNX, TorchScript or torch.export."),
    "push": ("export:push_command", "Push a checkpoint to the Hugging Face hub."),
    "table": ("records:table_command", "Print means and standard deviations of recorded runs."),
    "plot": ("records:plot_command", "Plot recorded runs."),
    "compare": ("records:compare_command", "Compare two recorded runs, image by image."),
    "report": ("records:report_command", "Write all runs to one HTML page."),
    "leaderboard": ("records:leaderboard_command", "Write a page that ranks models by threat; export to RobustBench."),
    "claims": ("records:claims_command", "Rebuild CLAIMS.md and its figures from the records."),
}


class _LazyGroup(RichGroup):
    """A group that imports a command when it is used, so that ``--help`` does not wait for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"toolkit_ext.cli.{module}"), name)
        command.short_help = COMMANDS[cmd_name][1]
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            raise type(error)(as_written(str(error), command.params if command else [])) from error


def as_written(message: str, params: Sequence[click.Parameter]) -> str:
    """``message`` with the option that it begins with as users write it: ``--n-train`` for ``n_train``."""
    name, colon, rest = message.partition(":")
    for param in params:
        flags = [flag.removeprefix("--").replace("-", "_") for flag in param.opts]
        if isinstance(param, click.Option) and name.replace("-", "_") in (param.name, *flags):
            return f"{param.opts[0]}{colon}{rest}"
    return message


@click.group(cls=_LazyGroup, context_settings=CONTEXT_SETTINGS)
@click.option(
    *("--version", "versions"),
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=show_versions,
    help="Show the versions of the package, Python, torch and CUDA, and exit.",
)
def cli() -> None:
    """Adversarial training of timm models, evaluated by AutoAttack."""


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise UserError(f"{word!r}: is not UTF-8; options and names of files must be")


def guarded(command: click.Command) -> None:
    """Run ``command`` with the process's arguments; bad input ends in one line and exit code 2."""
    set_up_logging()
    allocator.retain_freed()
    try:
        _check_words(sys.argv[1:])
        command.main(standalone_mode=False)
    except click.ClickException as error:
        say(f"error: {one_line(error.format_message(), 1200)}")
        sys.exit(2)
    except (UserError, RunError) as error:
        say_error(str(error))
        sys.exit(2 if isinstance(error, UserError) else 1)
    except MemoryError:
        say_error("out of memory; all finished epochs and batches are saved, so that the same command can go on")
        sys.exit(1)
    except OSError as error:
        say_error(message_line(f"{error.filename or 'the system'}: {error.strerror or one_line(error)}"))
        sys.exit(2 if error.errno in _BAD_PATHS else 1)
    except (KeyboardInterrupt, click.Abort):
        say("interrupted: all finished epochs and batches are saved; the same command with --resume goes on from there")
        sys.exit(130)


def main() -> None:
    """Entry point of ``toolkit-ext``."""
    guarded(cli)
