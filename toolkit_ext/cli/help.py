"""Help in groups with headings; ``train METHOD --help`` begins with the options and defaults of that method."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import click
from rich_click import RichCommand, RichContext, RichHelpConfiguration, RichHelpFormatter
from rich_click.rich_panel import RichOptionPanel

from toolkit_ext.cli import console
from toolkit_ext.cli.config import PRINT, settled
from toolkit_ext.cli.preset import take_preset
from toolkit_ext.cli.resume import RESUMED, with_settings
from toolkit_ext.results.tables.formatting import budget
from toolkit_ext.trainers.compose import AXES, compose, known, options
from toolkit_ext.trainers.config import LoopConfig
from toolkit_ext.trainers.methods import METHODS
from toolkit_ext.types import Method

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "rich_help_config": RichHelpConfiguration(max_width=120)}
# The options under each heading; those of the axes stand under the name of their axis.
HEADINGS: dict[str, tuple[str, ...]] = {
    "Configuration": ("config", "print_config", "dry_run"),
    "Sweep": ("methods", "seeds", "workers", "threads", "scheduler"),
    "Study": ("search", "trials", "study", "storage", "algorithm", "pruner", "prune_after"),
    "Analysis": (
        *("what", "k", "tol", "trace_samples", "density_steps", "density_samples", "distances", "directions", "span"),
        *("points", "dimensions", "degree"),
    ),
    "Data": ("data", "data_name", "data_root", "download", "n_train", "n_test", "n", "extra_data", "extra_fraction"),
    "Reading of images": (
        *("image_size", "crop_pct", "train_split", "validation_split", "test_split", "test_fraction"),
        *("group_pattern", "on_bad_image", "in_memory", "data_workers", "cache"),
    ),
    "Model": (
        *("backbone", "backbone_arg", "weights", "weights_key", "init", "mean", "std", "imports", "threat"),
        *("freeze", "spectral"),
    ),
    "Attack": ("attack", "craft_mode"),
    "Objective": ("objective", "label_smoothing"),
    "Update": ("update",),
    "Schedule of epsilon": ("schedule",),
    "Optimisation": (
        *(
            "epochs",
            "batch_size",
            "accumulate",
            "checkpoint_activations",
            "optimizer",
            "lr",
            "head_lr",
            "layer_decay",
            "momentum",
            "weight_decay",
        ),
        *("lr_schedule", "warmup_epochs"),
        *("milestones", "ema_decay", "swa_start", "clip_grad", "seed"),
    ),
    "Augmentation and balance of classes": (
        *("augment", "crop_padding", "crop_scale", "auto_augment", "rand_ops", "rand_magnitude"),
        *("mixup", "cutmix", "mix_prob", "sampler", "class_weights"),
    ),
    "Speed": (
        *("device", "speed", "precision", "craft_precision", "matmul_precision", "compile_mode", "fused_optimizer"),
        "deterministic",
    ),
    "Several processes": ("sharding", "sync_batch_norm", "ascent_on", "rank", "ranks"),
    "Monitoring": (
        *("validation_fraction", "validation_steps", "validation_limit", "measure_every", "overfit_patience"),
        "early_stopping",
        "constant_patience",
        "track",
    ),
    "Evaluation": (
        "protocol",
        "attacks",
        "attack_arg",
        "eps",
        "norm",
        "alpha",
        "steps",
        "version",
        "audited",
        "audit_n",
        "transfer",
        "transfer_from",
        "corruptions",
        "max_time",
    ),
    "Export": ("to", "file", "top", "as_csv", "private"),
    "Output": (
        *(
            "output",
            "results",
            "progress",
            "quiet",
            "json_lines",
            "resume",
            "extend",
            "save_every",
            "keep",
            "errors",
            "details",
        ),
        *("save_examples", "store_logits", "name", "fresh"),
    ),
}
_AXIS = {"attack": "Attack", "objective": "Objective", "update": "Update", "schedule": "Schedule of epsilon"}


def heading_of(name: str) -> str | None:
    """The heading that the option called ``name`` stands under, if it has one."""
    for axis, kinds in AXES.items():
        if any(name in options(kind) for kind in kinds.values()):
            return _AXIS[axis]
    return next((heading for heading, names in HEADINGS.items() if name in names), None)


class Command(RichCommand):
    """A command whose options are grouped in its help, under :func:`heading_of` or, where it says so, ``headings``."""

    def __init__(self, *args: Any, headings: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headings = headings or {}

    def format_options(self, ctx: RichContext, formatter: RichHelpFormatter) -> None:  # type: ignore[override]
        _group(self, {name: self.headings.get(name, heading_of(name)) for name in _names(self.params)})
        super().format_options(ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.meta.get(PRINT):
            click.echo(settled(ctx), nl=False)
            return None
        return super().invoke(ctx)


class TrainCommand(Command):
    """``train``: with a METHOD, help shows what that method has, with its own defaults; without, a preset is taken."""

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.params["method"] is None:
            source = take_preset(ctx)
            if ctx.meta.get(PRINT):
                click.echo(f"# {source}")
            else:
                console.say(source)
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args, ctx.meta[RESUMED] = with_settings(args)
        ctx.meta["method"] = next((word for word in args if word in METHODS), None)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: RichContext, formatter: RichHelpFormatter) -> None:  # type: ignore[override]
        if name := ctx.meta.get("method"):
            tailored(self, METHODS[name]).format_help(ctx, formatter)
        else:
            super().format_help(ctx, formatter)


def tailored(command: click.Command, method: Method) -> RichCommand:
    """``command`` with the options that ``method`` has, its own first, all with the defaults that it gives them."""
    values = compose(method, {}).hyper_parameters()
    own = known(method, {}) - options(LoopConfig).keys()
    made = RichCommand(name=command.name, params=[], help=_about(method), context_settings=command.context_settings)
    elsewhere = {name for kinds in AXES.values() for kind in kinds.values() for name in options(kind)} - own
    for param in command.params:
        if param.name in elsewhere:
            continue
        param = copy.copy(param)
        if isinstance(param, click.Option) and param.name in values:
            text = (param.help or "").partition(" [default:")[0]
            param.help, param.show_default = f"{text} [default: {shown(param.name, values[param.name])}]", False
        made.params.append(param)
    headings = {name: f"Options of {method.name}" if name in own else heading_of(name) for name in _names(made.params)}
    _group(made, headings, first=f"Options of {method.name}")
    return made


def _about(method: Method) -> str:
    return (
        f"Train {method.name}: {method.summary}.\n\nIts choices on the axes: attack {method.attack}, objective "
        f"{method.objective}, update {method.update}, schedule {method.schedule}. Options that belong to other choices "
        f"are shown by train --help; methods {method.name} explains the method."
    )


def shown(name: str, value: Any) -> str:
    """A default value of hyper-parameter ``name``, as a user would write it."""
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return budget(value) if name.startswith("eps") and isinstance(value, float) else str(value)


def _names(params: Iterable[click.Parameter]) -> list[str]:
    return [param.name for param in params if param.name]


def _group(command: RichCommand, headings: Mapping[str, str | None], first: str | None = None) -> None:
    """Give ``command`` a panel for every heading that has visible options."""
    command.panels = []
    visible = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    for heading in [*([first] if first else []), *HEADINGS]:
        names = [param.opts[0] for param in visible if headings.get(param.name or "") == heading]
        if names:
            command.add_panel(RichOptionPanel(heading, options=names))
