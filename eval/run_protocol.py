"""Evaluate the model in a checkpoint folder by one of the standard protocols, and write a run record.

    python eval/run_protocol.py linf_8_255 CHECKPOINT --data cifar10 --n 1000

PROTOCOL is a name in eval/protocols or the path of a JSON file like those. The same as
`toolkit-ext evaluate CHECKPOINT --protocol PROTOCOL`, with the same options.
"""

from __future__ import annotations

import click

from toolkit_ext.cli import guarded
from toolkit_ext.cli.evaluate import evaluate_command

main = click.Command(
    "run_protocol",
    params=[
        click.Argument(["protocol"]),
        *(parameter for parameter in evaluate_command.params if parameter.name != "protocol"),
    ],
    callback=evaluate_command.callback,
    help=__doc__,
)

if __name__ == "__main__":
    guarded(main)
