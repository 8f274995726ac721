"""Hostile code. Where looking or reaching out must fail, the answer is right only if it did."""

from tests.grading_class import FULL, NONE, NOT, PARTLY, RIGHT, WAITS, Cases, after

HOSTILE = Cases()
ENDLESS = Cases()  # those that come to no end before their time is up

ENDLESS.add("endless-loop", WAITS, (0, 3, 2), "stopped after", double="while True:\n    pass")
ENDLESS.add(
    "endless-loop-in-a-test",
    PARTLY,
    (None, 3, 2),
    "did not come to a result",
    double="def double(x):\n    while True:\n        pass",
)
ENDLESS.add(
    "endless-and-deaf",
    WAITS,
    (0, 3, 2),
    "stopped after",
    double="import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass",
)
HOSTILE.add("exits", WAITS, (0, 3, 2), "kernel ended", double="import os\nos._exit(0)")
HOSTILE.add(
    "exits-in-a-test",
    PARTLY,
    (None, 3, 2),
    "kernel ended",
    double="import os\ndef double(x):\n    os._exit(0)",
)
HOSTILE.add("sys-exit", WAITS, (0, 3, 2), double="import sys\nsys.exit(0)")
HOSTILE.add("asks", WAITS, (0, 3, 2), double="n = input('?')\ndef double(x): return 2 * x")
HOSTILE.add("memory", WAITS, (0, 3, 2), double="x = bytearray(8 * 10**9)\ndef double(x): return 2 * x")
HOSTILE.add(
    "memory-in-pieces",
    WAITS,
    (0, 3, 2),
    "of memory",
    double="x = []\nwhile True:\n    x.append(bytearray(10**8))",
)
HOSTILE.add(
    "much-output",
    WAITS,
    (0, 3, 2),
    "MB of output",
    double="line = 'x' * 10**5\nfor i in range(5000):\n    print(line, flush=True)\n"
    "def double(x): return 2 * x",
)
HOSTILE.add("one-large-output", WAITS, (0, 3, 2), double="print('x' * 500 * 10**6)\n1 / 0")
HOSTILE.add(
    "output-by-the-back-door",
    WAITS,
    (0, 3, 2),
    "Cell 2: it",
    double="import os\nwhile True:\n    os.write(1, b'x' * 10**6)",
)
HOSTILE.add("fork-bomb", WAITS, (0, 3, 2), double="import os\nwhile True:\n    os.fork()")
HOSTILE.add(
    "background",
    WAITS,
    FULL,
    "in the background",
    double=after("import subprocess\nsubprocess.Popen(['sleep', '98765'], start_new_session=True)"),
)
HOSTILE.add(
    "background-thread",
    WAITS,
    FULL,
    double=after(
        "import threading\n"
        "t = threading.Thread(target=lambda: [print('x') for _ in iter(int, 1)], daemon=True)\n"
        "t.start()"
    ),
)
HOSTILE.add(
    "network",
    WAITS,
    FULL,
    double="import socket\ntry:\n    socket.create_connection(('127.0.0.1', PORT), 2)\n"
    "except OSError:\n    double = lambda x: 2 * x",
)
HOSTILE.add(
    "looks-around",
    WAITS,
    FULL,
    double="import os\nif not any(os.path.exists(p) for p in PATHS):\n    double = lambda x: 2 * x",
)
HOSTILE.add(
    "reads-the-environment",
    WAITS,
    FULL,
    double="import os\ntext = str(os.environ)\ntry:\n"
    "    text += open('/proc/1/environ').read()\nexcept OSError:\n    pass\n"
    "if 'grader-secret' not in text:\n    double = lambda x: 2 * x",
)
HOSTILE.add(
    "deletes",
    WAITS,
    FULL,
    double=after(
        "import shutil\nfor p in [*PATHS, '/work', '/tmp', '/ipc', '/files']:\n"
        "    shutil.rmtree(p, ignore_errors=True)"
    ),
)
HOSTILE.add(
    "fills-the-disk",
    WAITS,
    FULL,
    double=after(
        "written = 0\ntry:\n    for i in range(100):\n"
        "        written += open(f'f{i}', 'wb').write(bytes(10**7))\nexcept OSError:\n"
        "    pass\nassert written < 5 * 10**8"
    ),
)
HOSTILE.add(
    "one-huge-file",
    WAITS,
    FULL,
    double=after(
        "try:\n    with open('f', 'wb') as f:\n"
        "        for i in range(200): f.write(bytes(10**6))\n    1 / 0\nexcept OSError:\n"
        "    pass"
    ),
)
HOSTILE.add(
    "kills",
    WAITS,
    FULL,
    double=after(
        "import os, signal\nfor p in range(1, 3):\n    try:\n"
        "        if p != os.getpid(): os.kill(p, signal.SIGKILL)\n    except OSError:\n"
        "        pass"
    ),
)
HOSTILE.add(
    "replaces-a-builtin",
    NOT,
    NONE,
    "replaced abs",
    double=after("import builtins\nbuiltins.abs = lambda x: 0"),
)
HOSTILE.add(
    "replaces-a-library",
    NOT,
    NONE,
    "replaced numpy.allclose",
    double=after("import numpy\nnumpy.allclose = lambda *a: True"),
)
HOSTILE.add(
    "removes-assertions",
    NOT,
    NONE,
    "ast_transformers",
    double="import ast\nclass No(ast.NodeTransformer):\n    def visit_Assert(self, node):\n"
    "        return ast.Pass()\nget_ipython().ast_transformers.append(No())",
)
HOSTILE.add(
    "swallows-errors",
    NOT,
    NONE,
    "set_custom_exc",
    double="get_ipython().set_custom_exc((Exception,), lambda *a, **k: None)",
)
ENDLESS.add(
    "shell-replaced",
    NOT,
    NONE,
    "",
    double="shell = get_ipython()\nold = shell.run_cell\ndef run_cell(source, *a, **k):\n"
    "    return old('pass', *a, **k)\n"
    "shell.run_cell = shell.run_cell_async = run_cell",
)
HOSTILE.add(
    "displays-points",
    WAITS,
    (0, 0, 0),
    double="def double(x):\n    get_ipython().displayhook(2)\n    return 0",
    slope="",
)
HOSTILE.add(
    "displays-what-no-notebook-can-hold",
    WAITS,
    FULL,
    double=after("from IPython.display import display\ndisplay({'text/plain': 5}, raw=True)"),
)
HOSTILE.add(
    "writes-markup",
    WAITS,
    FULL,
    double=after(
        "from IPython.display import HTML, display\n"
        "display(HTML('<script>alert(1)</script>'))\nprint('<script>alert(2)</script>')"
    ),
    why="<script>alert(3)</script>",
)
HOSTILE.add(
    "spreads-hidden-tests",
    WAITS,
    FULL,
    double=after("get_ipython().events.register('pre_run_cell', lambda info: print(info.raw_cell))"),
    slope=RIGHT["slope"] + "\nprint(In)",
)
