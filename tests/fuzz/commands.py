"""Command lines made from the options themselves: a sound command, with some options changed, doubled or cut off."""

from __future__ import annotations

import random
import re
from typing import Any

import click

from toolkit_ext import cli
from toolkit_ext.cli.options import CommaSeparated

# Quick and sound: each ends in less than a second. Names of files are those of the fixture ``places``.
SOUND: dict[str, list[str]] = {
    "methods": [],
    "train": [
        *("fgsm", "--backbone-arg", "width=1", "--epochs", "1", "--n-train", "40", "--n-test", "4"),
        *("--attacks", "clean", "--eps", "0.1", "--batch-size", "20", "--validation-steps", "1", "--no-progress"),
    ],
    "sweep": [
        *("--methods", "fgsm", "--seeds", "0", "--backbone-arg", "width=1", "--epochs", "1", "--n-train", "40"),
        *("--n-test", "4", "--attacks", "clean", "--eps", "0.1", "--batch-size", "20", "--validation-steps", "1"),
        *("--workers", "0", "--threads", "1"),
    ],
    "tune": [
        *("fgsm", "--study", "s", "--search", "lr=0.1:0.2", "--trials", "1", "--backbone-arg", "width=1"),
        *("--epochs", "1", "--n-train", "40", "--n-test", "4", "--attacks", "clean", "--eps", "0.1"),
        *("--batch-size", "20", "--validation-steps", "1"),
    ],
    "evaluate": ["model", "--n", "4", "--attacks", "clean,fgsm", "--no-progress"],
    "landscape": [
        *("model", "--what", "similarity", "--n", "12", "--n-test", "12", "--steps", "1", "--distances", "0,0.1"),
        *("--directions", "random", "--no-progress"),
    ],
    "table": ["--results", "runs"],
    "plot": ["--results", "runs", "--out", "plot.svg"],
    "report": ["--results", "runs", "--out", "page.html"],
    "leaderboard": ["--results", "runs", "--out", "page.html"],
    "claims": ["--results", "runs", "--recipes", "claims"],
}
# Values that would take long, or reach beyond this machine; everything else is drawn for every option.
NEVER = {"--download", "--help", "--version", "-h", "--scheduler"}
ONLY = {
    "workers": ["0", "-1", "x", "", "nan"],
    "threads": ["1", "0", "-1", "1.5", "2147483648"],
    "compile_mode": ["none", "fast", ""],
    "sharding": ["none", "fsdp", "x"],
    "storage": ["journal:s", "journal:", "sqlite:///s.db", "sqlite:///empty", "s.db", "://", "x://y", ""],
    "trials": ["1", "0", "-1", "x", "nan", ""],
    "search": ["lr=0.1:0.2", "lr=1", "lr", "=", "lr=0:1:log", "steps=1:2", "eps=0.1,0.2", "lr=nan:1", "x=1,2", ""],
    "recipes": ["claims", "missing", "file.txt", ""],
}

INTEGERS = ["1", "2", "3", "0", "-1", "2147483647", "2147483648", "4294967295", "4294967296", "9" * 400]
INTEGERS += ["1.5", "nan", "", "x", "0x10", "1e3", " 1", "\u0663", "True", "None", "-0", "1_0"]
FLOATS = ["0.5", "1", "0", "-0.0", "0.999999", "1e-320", "1e308", "-1", "nan", "inf", "-inf", "1e999", "", "x"]
FLOATS += ["8/255", "1,5", "0x1p3", "\u0660.\u0665", "-1e308", "1e12", "1e13"]
TEXTS = ["8/255", "1/0", "0/0", "-1/255", "255", "nan", "0.1", "0", "1", "", " ", "None", "../x", "/", ".", "a\nb"]
TEXTS += [
    "x" * 5000,
    "=1+1",
    "[red]",
    "\x1b[31m",
    "\u202e",
    "\udcff",
    "é",
    "-",
    "--",
    "@x",
    "$HOME",
    "con",
    "%s",
    "{0}",
]
PATHS = ["model", "file.txt", "missing", "missing/x/y", "file.txt/x", "", ".", "x" * 300, "a\nb", "\udcff", "/dev/null"]
PATHS += ["runs", "plot.svg", "plot.exe", "empty", "empty/x", "log.csv"]
LISTS = [",", "", " , ", "a,b", "1,1", "0.1,0.2", "nan,1", "0,-1", "clean", "clean,aaa", ",clean", "1,,2", "x" * 3000]
LISTS += ["2147483648,1", "eigenvector,random", "clean,pgd20", "union", "fgsm,pgd", "1e400,2", "8/255,0.1", "0.1,x"]
PAIRS = ["width=2", "width", "=", "width=", "=1", "width=-1", "width=nan", "width=[1]", "width=1e999", "wide=1"]
PAIRS += ["width={}", "width=" + "[" * 2000, "checkpoint_path=x", "width=1000000000000", "base=resnet10t", "width=true"]
WHERE = ["method=pgd", "method", "=", "x=1", "eps<0.1", "eps<x", "seed>=nan", "method!=", "eps=8/255", "data=\udcff"]
DEVICES = ["cpu", "cuda", "cuda:999", "meta", "mps", "cpu:3", "gpu", "", "cuda:x", "CPU"]
DATA = [
    "digits",
    "mnist",
    "digit",
    "folder:",
    "folder:missing",
    "folder:file.txt",
    "folder:images",
    "",
    "gtsrb",
    "DIGITS",
]
BACKBONES = ["lenet", "lenett", "resnet10t", "hf-hub:x/y", "", "../x", "vit_tiny_patch16_224", "x" * 3000, "resnet18_w"]


def command_of(name: str) -> click.Command:
    """The click command called ``name``."""
    found = cli.cli.get_command(click.Context(cli.cli), name)
    assert found is not None
    return found


def candidates(param: click.Parameter) -> list[str]:
    """Values for an option: valid, at its ends, and absurd, by its type and by the words of its help text."""
    name, kind = param.name or "", param.type
    special = {"where": WHERE, "backbone_arg": PAIRS, "device": DEVICES, "data": DATA, "data_name": DATA}
    special |= {"backbone": BACKBONES, **ONLY}
    if name in special:
        return special[name]
    words = re.findall(r"[a-zA-Z][\w-]{2,}", getattr(param, "help", "") or "")
    if isinstance(kind, click.Choice):
        return [*map(str, kind.choices), *TEXTS]
    if isinstance(kind, CommaSeparated):
        return [*LISTS, *words]
    if isinstance(kind, click.Path):
        return PATHS
    by_name = {"integer": INTEGERS, "float": FLOATS}
    return by_name.get(kind.name, [*TEXTS, *PATHS, *INTEGERS[:5], *FLOATS[:5], *words])


def change(rng: random.Random, command: click.Command) -> list[str]:
    """One option in words: with a value, with none, twice, or a flag."""
    options: list[Any] = [p for p in command.params if isinstance(p, click.Option) and not NEVER & {*p.opts}]
    param = rng.choice(options)
    flag = rng.choice([*param.opts, *param.secondary_opts])
    if param.is_flag:
        return [flag] * rng.choice([1, 1, 2])
    values = candidates(param)
    how = rng.random()
    if how < 0.03:
        return [flag]  # what follows is its value, if anything does
    if how < 0.08:
        return [flag, rng.choice(values), flag, rng.choice(values)]
    return [flag, rng.choice(values)] if how < 0.95 else [f"{flag}={rng.choice(values)}"]


def draw(rng: random.Random) -> list[str]:
    """A command line: a sound one with up to three changes, before or after it, and sometimes with a word cut out."""
    name = rng.choices([*SOUND], weights=[0.2, *[2.0] * (len(SOUND) - 1)])[0]
    command = command_of(name)
    sound, changes = (
        list(SOUND[name]),
        [change(rng, command) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        if name != ("methods")
        else [[rng.choice(["--x", "x", "-"])]],
    )
    if sound and rng.random() < 0.08:
        del sound[rng.randrange(len(sound))]
    words = [*sound, *(word for one in changes for word in one)]
    if name == "sweep" and rng.random() < 0.5:
        words.append("--dry-run")
    if name in ("evaluate", "landscape") and rng.random() < 0.05:
        words.insert(0, rng.choice(PATHS))
    return [name, *words]
