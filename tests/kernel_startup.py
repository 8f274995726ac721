"""Runs at the start of the suite's kernels: what takes a lesson long is computed once for both of its runs.

Every lesson runs twice, strictly compared by nbval and in a browser, and from its top it computes the same.
So a browser's kernel takes over what `parallel_map` gave in one of nbval, and computes what it does not find.
"""

import hashlib
import itertools
import os
import pickle
from pathlib import Path

from IPython import get_ipython

from gradients_in_depth import session

compute, results, calls = session.parallel_map, Path(os.environ["COURSE_RESULTS"]), itertools.count()


def parallel_map(function, cases):
    """As in `gradients_in_depth.session`, with a memory: of what call in a kernel that has executed what."""
    history = [str(next(calls)), *get_ipython().user_ns["In"]]  # the last is the cell that calls
    known = results / hashlib.sha256("\n".join(history).encode()).hexdigest()
    if known.exists() and "COURSE_RESULTS_READ" in os.environ:
        return pickle.loads(known.read_bytes())
    found = compute(function, cases)
    unfinished = known.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(pickle.dumps(found))
    unfinished.replace(known)
    return found


session.parallel_map = parallel_map
