"""The checks of the exercises: each tries an answer, and says in one sentence which mistake it looks like.

`checks.NAME(answer)` prints one sentence when the answer holds, and raises `Mistake` when it does not;
`checks.NAME.hint()` prints a hint. Neither gives the answer. No check needs nbgrader: a learner runs the cell
and reads. In a graded notebook the same call is the test, for a cell that raises earns no points.

`common` holds what all checks share, each set has a module of its own, `ward` has the patients of lesson 10.
"""

from utils.checks.common import EMPTY, Check, Mistake
from utils.checks.set_01_chain_rule_intuition import (
    critical_std,
    growth_rate,
    patient,
    patients,
    scaled_underflow,
    shared_weight,
)
from utils.checks.set_02_sigmoid_saturation import (
    centering_dial,
    largest_correction,
    one_signed_step,
    saturation_count,
    treated,
    treatments,
)
from utils.checks.set_04_initialization import (
    critical_variance,
    four_starts,
    lasting_units,
    layer_budget,
    start_dashboard,
    uniform_bound,
)
from utils.checks.set_10_gradient_clinic import (
    gradient_census,
    halved_weights,
    lost_decades,
    message_norms,
    night_chart,
    night_ward,
)
from utils.checks.ward import CURES, DIAGNOSES, Patient, clinic

__all__ = [
    "CURES",
    "DIAGNOSES",
    "EMPTY",
    "Check",
    "Mistake",
    "Patient",
    "centering_dial",
    "clinic",
    "critical_std",
    "critical_variance",
    "four_starts",
    "gradient_census",
    "growth_rate",
    "halved_weights",
    "largest_correction",
    "lasting_units",
    "layer_budget",
    "lost_decades",
    "message_norms",
    "night_chart",
    "night_ward",
    "one_signed_step",
    "patient",
    "patients",
    "saturation_count",
    "scaled_underflow",
    "shared_weight",
    "start_dashboard",
    "treated",
    "treatments",
    "uniform_bound",
]
