"""Run records (JSON) in, tables and figures out.

``results/runs/<run_id>.json`` is written once for each run and never edited; everything in ``results/tables`` and
``results/figures`` is made from the records.
"""

from toolkit_ext.results.figures.curves import Curve, curves, plot_robustness, plot_training, training_log
from toolkit_ext.results.figures.images import Pair, pairs, plot_breakdown, plot_matrix, plot_pairs
from toolkit_ext.results.figures.plots import plot_bars, plot_clean_vs_robust
from toolkit_ext.results.records.environment import environment, peak_memory, peak_memory_mb, reset_peak_memory
from toolkit_ext.results.records.record import (
    RecordWarning,
    model_info,
    new_record,
    new_run_id,
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

__all__ = [
    "METRICS",
    "SCHEMA",
    "Curve",
    "Environment",
    "Pair",
    "Record",
    "RecordWarning",
    "aggregate",
    "check_name",
    "columns",
    "concise",
    "curves",
    "environment",
    "frame",
    "label",
    "members",
    "model_info",
    "new_record",
    "new_run_id",
    "pairs",
    "peak_memory",
    "peak_memory_mb",
    "per_example",
    "plot_bars",
    "plot_breakdown",
    "plot_clean_vs_robust",
    "plot_matrix",
    "plot_pairs",
    "plot_robustness",
    "plot_training",
    "printed",
    "read_records",
    "rebuild",
    "render",
    "reported",
    "reset_peak_memory",
    "slug",
    "sort",
    "to_csv",
    "to_latex",
    "to_markdown",
    "training_log",
    "validate",
    "vs_best",
    "where",
    "write_model_info",
    "write_record",
    "write_table",
]
