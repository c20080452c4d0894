"""Run records (JSON) in, tables and figures out.

``results/runs/<run_id>.json`` is written once for each run and never edited; everything in ``results/tables`` and
``results/figures`` is made from the records.
"""

from toolkit_ext.results.concise import METRICS, concise, label
from toolkit_ext.results.environment import Environment, environment, peak_memory, peak_memory_mb, reset_peak_memory
from toolkit_ext.results.figures import plot_bars, plot_clean_vs_robust, plot_training
from toolkit_ext.results.frames import frame
from toolkit_ext.results.record import RecordWarning, new_record, new_run_id, read_records, slug, validate, write_record
from toolkit_ext.results.render import printed, render, to_csv, to_latex, to_markdown
from toolkit_ext.results.schema import SCHEMA, Record
from toolkit_ext.results.select import columns, sort, where
from toolkit_ext.results.tables import aggregate, rebuild, write_table

__all__ = [
    "METRICS",
    "SCHEMA",
    "Environment",
    "Record",
    "RecordWarning",
    "aggregate",
    "columns",
    "concise",
    "environment",
    "frame",
    "label",
    "new_record",
    "new_run_id",
    "peak_memory",
    "peak_memory_mb",
    "plot_bars",
    "plot_clean_vs_robust",
    "plot_training",
    "printed",
    "read_records",
    "rebuild",
    "render",
    "reset_peak_memory",
    "slug",
    "sort",
    "to_csv",
    "to_latex",
    "to_markdown",
    "validate",
    "where",
    "write_record",
    "write_table",
]
