"""The model card of a trained checkpoint: ``README.md`` beside its weights."""

from __future__ import annotations

import json
from pathlib import Path

from toolkit_ext import results
from toolkit_ext.io import atomic_write
from toolkit_ext.results import Record
from toolkit_ext.results.tables.formatting import budget

CARD = "README.md"
_HEAD = """---
tags:
- image-classification
- timm
- adversarial-robustness
library_name: timm
---
"""


def write_card(record: Record, folder: Path) -> Path:
    """Write the card of the checkpoint ``folder``, made from the ``record`` of its run."""
    return atomic_write(folder / CARD, card_of(record))


def card_of(record: Record) -> str:
    """What was trained on what, how robust it is, how to load it, and the command that trains it again."""
    data, backbone = record["data"], record["backbone"]
    chosen = record["hyper_parameters"]
    options = ", ".join(f"{name} {json.dumps(chosen[name])}" for name in sorted(chosen))
    examples = f"{data['train']} training and {data['validation']} validation images"
    parts = [
        f"{_HEAD}# {backbone['name']}, trained on {data['name']} by {record['method']}",
        f"A classifier of {data['num_classes']} classes with {backbone['parameters']:,} parameters, for images in"
        " [0, 1]: its normalisation is in `config.json`, and `model.safetensors` holds its weights.",
        f"- Method: {record['method']}\n- Data: {data['name']}, {examples}\n- Seed: {record['seed']}",
        _accuracies(record),
        f"## Training\n\n`{record['command']}`\n\nHyper-parameters: {options}.",
        "## Use\n\n```python\nfrom toolkit_ext import backbones\n\n"
        'model = backbones.load_model("FOLDER")  # [N, C, H, W] in [0, 1] to logits\n```',
        f"Record: `{record['run_id']}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _accuracies(record: Record) -> str:
    """A table of all accuracies with their 95% intervals, under the threat model they are for."""
    about = record["protocol"]
    if about is None:
        return "It was not evaluated."
    threat = f"{about['norm']}, eps {budget(about['eps'])}"
    rows = []
    for name in (name for name in results.METRICS if name in record["metrics"]):
        low, high = record["intervals"][name]
        rows.append(f"| {results.label(name)} | {record['metrics'][name]:.1%} | {low:.1%} to {high:.1%} |")
    head = f"## Accuracy\n\n{threat}, the first {record['n_examples']} test images; AutoAttack is {about['version']}."
    return "\n".join([head, "", "| attack | accuracy | 95% interval |", "| --- | ---: | ---: |", *rows])
