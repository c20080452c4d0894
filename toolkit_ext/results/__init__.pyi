from .figures.curves import (
    Curve as Curve,
)
from .figures.curves import (
    curves as curves,
)
from .figures.curves import (
    plot_robustness as plot_robustness,
)
from .figures.curves import (
    plot_training as plot_training,
)
from .figures.curves import (
    training_log as training_log,
)
from .figures.images import (
    Pair as Pair,
)
from .figures.images import (
    pairs as pairs,
)
from .figures.images import (
    plot_breakdown as plot_breakdown,
)
from .figures.images import (
    plot_matrix as plot_matrix,
)
from .figures.images import (
    plot_pairs as plot_pairs,
)
from .figures.perturbations import plot_perturbations as plot_perturbations
from .figures.plots import plot_bars as plot_bars
from .figures.plots import plot_clean_vs_robust as plot_clean_vs_robust
from .inference.agreement import Agreement as Agreement
from .inference.agreement import agreement as agreement
from .inference.perturbations import PerturbationCurve as PerturbationCurve
from .inference.perturbations import perturbation_curve as perturbation_curve
from .records.environment import (
    environment as environment,
)
from .records.environment import (
    peak_memory as peak_memory,
)
from .records.environment import (
    peak_memory_mb as peak_memory_mb,
)
from .records.environment import (
    reset_peak_memory as reset_peak_memory,
)
from .records.record import (
    RecordWarning as RecordWarning,
)
from .records.record import (
    new_record as new_record,
)
from .records.record import (
    new_run_id as new_run_id,
)
from .records.record import (
    read_record as read_record,
)
from .records.record import (
    read_records as read_records,
)
from .records.record import (
    slug as slug,
)
from .records.record import (
    write_record as write_record,
)
from .records.robustbench import model_info as model_info
from .records.robustbench import write_entry as write_entry
from .records.robustbench import write_model_info as write_model_info
from .records.schema import (
    SCHEMA as SCHEMA,
)
from .records.schema import (
    Environment as Environment,
)
from .records.schema import (
    Record as Record,
)
from .records.schema import (
    check_name as check_name,
)
from .records.schema import (
    validate as validate,
)
from .tables.aggregate import (
    aggregate as aggregate,
)
from .tables.aggregate import (
    members as members,
)
from .tables.aggregate import (
    rebuild as rebuild,
)
from .tables.aggregate import (
    reported as reported,
)
from .tables.aggregate import (
    write_table as write_table,
)
from .tables.formatting import METRICS as METRICS
from .tables.formatting import concise as concise
from .tables.formatting import label as label
from .tables.frames import columns as columns
from .tables.frames import frame as frame
from .tables.frames import sort as sort
from .tables.frames import where as where
from .tables.rendering import (
    printed as printed,
)
from .tables.rendering import (
    render as render,
)
from .tables.rendering import (
    to_csv as to_csv,
)
from .tables.rendering import (
    to_latex as to_latex,
)
from .tables.rendering import (
    to_markdown as to_markdown,
)
from .tables.significance import per_example as per_example
from .tables.significance import vs_best as vs_best
