"""Name the disease of any `torch.nn.Module` from one batch: what, where, how far from healthy, what to try.

`signals` measures every layer; in the same run a probe also watches what no layer returns: attention
probabilities, activations called as functions, residual sums, gradients over time. The rules then look at
figures, each by its key, and name what lies outside its range.
"""

from gradients_in_depth.diagnosis.diagnosing import diagnose
from gradients_in_depth.diagnosis.diseases import DISEASES, LESSONS, Disease, FigureKey
from gradients_in_depth.diagnosis.report import Diagnosis, Figure, Finding

__all__ = ["DISEASES", "LESSONS", "Diagnosis", "Disease", "Figure", "FigureKey", "Finding", "diagnose"]
