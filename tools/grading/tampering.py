"""Looks for what makes a test in a student's kernel worthless, and says in words what it is.

The look is a cell that must fail, with a number that nobody can know before, and that names builtins and
library functions which a notebook's code has replaced.
"""

from tools.grading import sandbox

# Runs in the kernel, out of the notebook's names. Cells are compiled as files of a folder "ipykernel_...".
_LOOK = r"""
import builtins, os, sys, types
def own(file):
    return file.startswith(here) and not file.startswith(installed)
def strange(value):
    if type(value) is types.MethodType:
        value = value.__func__
    if type(value) is types.FunctionType:
        file = value.__code__.co_filename
        return "ipykernel_" in file or own(file)
    return "__main__" in (type(value).__module__, isinstance(value, type) and value.__module__)
here = os.path.realpath(start) + os.sep
installed = tuple(os.path.realpath(path) + os.sep for path in visible)
replaced = []
for name in dir(builtins):
    if strange(getattr(builtins, name)):
        replaced.append(name)
watched = ("math", "cmath", "random", "unittest.case", "numpy", "numpy.testing", "numpy.linalg")
watched += ("numpy.random", "torch", "torch.random", "torch.testing", "torch.nn.functional")
watched += ("IPython.core.interactiveshell", "ipykernel.ipkernel")
for name, module in sorted(sys.modules.items()):
    file = str(getattr(module, "__file__", None) or "")
    if (name in watched or name.split(".")[0] == "gradients_in_depth") and not own(file):
        for attribute, value in sorted(vars(module).items()):
            if not attribute.startswith("__") and strange(value):
                replaced.append(name + "." + attribute)
            if isinstance(value, type) and name.split(".")[0] == "gradients_in_depth":
                of_class = [part for part in vars(value).values() if type(part) is types.FunctionType]
                if any(strange(part) for part in of_class):
                    replaced.append(name + "." + attribute)
compared = ("numpy.allclose", "numpy.isclose", "numpy.array_equal", "torch.allclose", "torch.equal")
for name in (*compared, "math.isclose"):
    module, _, attribute = name.rpartition(".")
    value = getattr(sys.modules.get(module), attribute, None)
    if value is not None and getattr(value, "__name__", None) != attribute:
        replaced.append(name)
shell = builtins.get_ipython()
for name in ("run_cell", "run_cell_async", "run_ast_nodes", "showtraceback", "_showtraceback", "run_code"):
    if name in vars(shell) and strange(getattr(shell, name)) or strange(getattr(type(shell), name, None)):
        replaced.append("get_ipython()." + name)
if shell.ast_transformers:
    replaced.append("get_ipython().ast_transformers")
if shell.input_transformers_post:
    replaced.append("get_ipython().input_transformers_post")
if shell.custom_exceptions:
    replaced.append("get_ipython().set_custom_exc")
if replaced:
    raise RuntimeError(nonce + " " + ", ".join(sorted(set(replaced))[:5]))
"""


def probe(nonce: str, work: str) -> str:
    """The source of a cell that must fail, and say `nonce`; `work` is the folder that the kernel runs in."""
    # The course may be installed below a folder of the same name as the one that a submission runs in.
    visible = [str(path) for path in sandbox.visible()]
    names = {"nonce": nonce, "start": work, "visible": visible}
    return f"exec({_LOOK!r}, {names!r})\nassert not {nonce!r}, {nonce!r}"


def describe(error: str, nonce: str) -> str:
    """What the end of that cell says of the kernel; empty where nothing was found."""
    if error == f"AssertionError: {nonce}":
        return ""
    if error.startswith(f"RuntimeError: {nonce} "):
        return "the submission's code replaced " + error.split(nonce, 1)[1].strip()
    return f"an assertion that must fail before each test ended otherwise ({error[:80] or 'not at all'})"
