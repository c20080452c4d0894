"""Run records (``results/runs/<run_id>.json``, written once, never edited), and the tables and figures made of them."""

from toolkit_ext.results.figures.curves import Curve, curves, plot_robustness, plot_training, training_log
from toolkit_ext.results.figures.images import Pair, pairs, plot_breakdown, plot_matrix, plot_pairs
from toolkit_ext.results.figures.plots import plot_bars, plot_clean_vs_robust
from toolkit_ext.results.records.environment import environment, peak_memory, peak_memory_mb, reset_peak_memory
from toolkit_ext.results.records.record import (
    RecordWarning,
    model_info,
    new_record,
    new_run_id,
    read_record,
    read_records,
    slug,
    write_model_info,
    write_record,
)
from toolkit_ext.results.records.schema import SCHEMA, Environment, Record, check_name, validate
from toolkit_ext.results.tables.aggregate import aggregate, members, rebuild, reported, write_table
from toolkit_ext.results.tables.formatting import METRICS, concise, label
from toolkit_ext.results.tables.frames import columns, frame, sort, where
from toolkit_ext.results.tables.rendering import printed, render, to_csv, to_latex, to_markdown
from toolkit_ext.results.tables.significance import per_example, vs_best

__all__ = ["SCHEMA", "Environment", "Record", "RecordWarning", "check_name", "environment", "model_info", "new_record"]
__all__ += [
    "new_run_id",
    "peak_memory",
    "peak_memory_mb",
    "read_record",
    "read_records",
    "reset_peak_memory",
    "slug",
    "validate",
]
__all__ += ["write_model_info", "write_record"]
__all__ += ["METRICS", "aggregate", "columns", "concise", "frame", "label", "members", "per_example", "printed"]
__all__ += ["rebuild", "render", "reported", "sort", "to_csv", "to_latex", "to_markdown", "vs_best", "where"]
__all__ += ["Curve", "Pair", "curves", "pairs", "plot_bars", "plot_breakdown", "plot_clean_vs_robust", "plot_matrix"]
__all__ += ["plot_pairs", "plot_robustness", "plot_training", "training_log", "write_table"]
