"""The checks of the exercises: each tries an answer, and says in one sentence which mistake it looks like.

`checks.NAME(answer)` prints one sentence when the answer holds, and raises `Mistake` when it does not;
`checks.NAME.hint()` prints a hint. Neither gives the answer. No check needs nbgrader: a learner runs the cell
and reads. In a graded notebook the same call is the test, for a cell that raises earns no points.

`common` holds what all checks share, each set has a module of its own, `activations` has those that sets 04
and 05 bring, `models` what the checks of measurements share, and `ward` the patients of lesson 10.
"""

from gradients_in_depth.checks.common import EMPTY, Check, Mistake
from gradients_in_depth.checks.set_01_chain_rule_intuition import (
    critical_std,
    growth_rate,
    patient,
    patients,
    scaled_underflow,
    shared_weight,
)
from gradients_in_depth.checks.set_02_sigmoid_saturation import (
    centering_dial,
    largest_correction,
    one_signed_step,
    saturation_count,
    treated,
    treatments,
)
from gradients_in_depth.checks.set_03_relu_and_variants import (
    leak_gradients,
    obituary,
    saving_leak,
    silent_by_chance,
)
from gradients_in_depth.checks.set_04_initialization import (
    critical_variance,
    four_starts,
    lasting_units,
    layer_budget,
    start_dashboard,
    uniform_bound,
)
from gradients_in_depth.checks.set_05_batch_norm import (
    folded_norm,
    forgetting_variance,
    group_backward,
    rescuing_scale,
    turning_rate,
)
from gradients_in_depth.checks.set_06_residual_connections import (
    blocks_like_the_first,
    loudest_branch,
    mean_path_length,
    open_units,
)
from gradients_in_depth.checks.set_07_gradient_clipping import (
    joint_clip,
    laplace_angle,
    remembering_bias,
    state_gradients,
)
from gradients_in_depth.checks.set_08_transformers import (
    causal_shares,
    collapse_depth,
    logit_messages,
    query_gradient,
)
from gradients_in_depth.checks.set_09_optimizers_and_depth import (
    after_spike,
    decoupled_decay,
    dropout_start,
    leakfree_folds,
    rare_gradient,
)
from gradients_in_depth.checks.set_10_gradient_clinic import (
    gradient_census,
    halved_weights,
    lost_decades,
    message_norms,
    night_chart,
    night_ward,
)
from gradients_in_depth.checks.ward import (
    CURES,
    DIAGNOSES,
    Patient,
    clinic,
)

__all__ = [
    "CURES",
    "Check",
    "DIAGNOSES",
    "EMPTY",
    "Mistake",
    "Patient",
    "after_spike",
    "blocks_like_the_first",
    "causal_shares",
    "centering_dial",
    "clinic",
    "collapse_depth",
    "critical_std",
    "critical_variance",
    "decoupled_decay",
    "dropout_start",
    "folded_norm",
    "forgetting_variance",
    "four_starts",
    "gradient_census",
    "group_backward",
    "growth_rate",
    "halved_weights",
    "joint_clip",
    "laplace_angle",
    "largest_correction",
    "lasting_units",
    "layer_budget",
    "leak_gradients",
    "leakfree_folds",
    "logit_messages",
    "lost_decades",
    "loudest_branch",
    "mean_path_length",
    "message_norms",
    "night_chart",
    "night_ward",
    "obituary",
    "one_signed_step",
    "open_units",
    "patient",
    "patients",
    "query_gradient",
    "rare_gradient",
    "remembering_bias",
    "rescuing_scale",
    "saturation_count",
    "saving_leak",
    "scaled_underflow",
    "shared_weight",
    "silent_by_chance",
    "start_dashboard",
    "state_gradients",
    "treated",
    "treatments",
    "turning_rate",
    "uniform_bound",
]
