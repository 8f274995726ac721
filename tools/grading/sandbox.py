"""Runs a student's kernel where it can harm nothing: bubblewrap around it, limits on it, a watch over it.

Inside there is no network, and nothing to be seen but the system, the Python environment and the course's
package, all read-only, and a folder in memory that is gone afterwards. Messages come and go by sockets in
one folder, which is the only thing that both sides can write.
"""

import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
import zmq
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.connect import KernelConnectionInfo

ROOT = Path(__file__).resolve().parents[2]
MB = 2**20
START_SECONDS = 60.0  # a cold disk and a busy machine
WATCH_SECONDS = 0.2
LARGEST_MESSAGE = 8 * MB
ADDRESS_SPACE_MB = 4096  # PyTorch reserves much more than it uses
FIRST_USER = 200_000  # above the users of a usual system; root gives each sandbox one of its own
WITHOUT = "without it a student's code could read, change and send anything."
_users = itertools.count(FIRST_USER + os.getpid() % 50_000 * 16)


class SandboxError(Exception):
    """The sandbox itself does not work here; it says nothing about a submission."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    cell_seconds: float = 30.0
    total_seconds: float = 300.0
    memory_mb: int = 2048
    processes: int = 64
    file_mb: int = 64
    output_mb: int = 10


def visible() -> list[Path]:
    """What a kernel needs to see besides the system: this Python, its packages, the course's own package."""
    paths = {Path(sys.prefix), Path(sys.base_prefix), ROOT / "utils"}
    paths |= {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths = {Path(os.path.abspath(path)) for path in paths} | {path.resolve() for path in paths}
    return sorted(p for p in paths if p.exists() and not any(o != p and p.is_relative_to(o) for o in paths))


def refuse_visible(folders: list[Path]) -> None:
    """Refuses a course whose files would be visible in the sandbox.

    Raises `SandboxError` when one of the folders lies in what the sandbox shows, such as `/usr` or the
    Python environment.
    """
    in_sight = [Path("/usr"), Path("/etc/fonts"), *visible()]
    for folder in folders:
        for path in in_sight:
            if folder.resolve().is_relative_to(path):
                raise SandboxError(
                    f"{folder} is in {path}, which a student's code can read. Move the course elsewhere."
                )


def _prlimit(limits: Limits) -> list[str]:
    return [
        "prlimit",
        f"--as={(limits.memory_mb + ADDRESS_SPACE_MB) * MB}",
        f"--nproc={limits.processes}",
        f"--fsize={limits.file_mb * MB}",
        f"--cpu={int(limits.total_seconds * 2) + 60}",
        "--nofile=1024",
        "--core=0",
        "--",
    ]


def _bubblewrap(limits: Limits, folder: Path, user: int | None) -> list[str]:
    """The command up to the program that is to run inside; `user` where root starts it."""
    command = [
        "bwrap",
        "--die-with-parent",
        "--new-session",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
    ]
    command += ["--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox", "--cap-drop", "ALL"]
    if user is None:
        command += ["--unshare-user", "--disable-userns"]
    else:
        # Limits on processes do not bind root, not even in a user namespace: inside, another user goes on.
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    command += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            command += ["--ro-bind", str(path), str(path)]
    for name in ("ld.so.cache", "alternatives", "fonts", "localtime", "nsswitch.conf"):
        command += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    size = str(4 * limits.file_mb * MB)
    for folder_in_memory in ("/tmp", "/work"):  # a student's own files
        command += ["--size", size, "--perms", "1777", "--tmpfs", folder_in_memory]
    in_sight = [path for path in visible() if not path.is_relative_to("/usr")]
    parents = {parent for path in in_sight for parent in path.parents} - {Path("/"), Path("/tmp")}
    for parent in sorted(parents):
        command += ["--perms", "0755", "--dir", str(parent)]
    for path in in_sight:
        command += ["--ro-bind", str(path), str(path)]
    command += ["--ro-bind", str(folder / "files"), "/files", "--bind", str(folder / "ipc"), "/ipc"]
    command += ["--proc", "/proc", "--dev", "/dev", "--size", size, "--perms", "1777", "--tmpfs", "/dev/shm"]
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/work"]
    if user is not None:
        command += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"]
        command += ["--inh-caps=-all", "--bounding-set=-all"]
    return command


def _environment(home: str) -> dict[str, str]:
    """All that a student's code finds in its environment: nothing of the person who grades."""
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": home,
        "TMPDIR": home if home != "/work" else "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NBGRADER_EXECUTION": "autograde",
        "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "LOKY_MAX_CPU_COUNT": "1",  # what a lesson gives to several processes stays in the kernel
    }


def check() -> None:
    """Tries the sandbox once.

    Raises `SandboxError`, with the reason, where bubblewrap is missing or the system does not permit it.
    """
    if shutil.which("bwrap") is None:
        raise SandboxError(
            f"bubblewrap is not installed, and {WITHOUT} Install it (Debian and Ubuntu: apt install "
            "bubblewrap), or grade without protection: --no-sandbox."
        )
    with tempfile.TemporaryDirectory(prefix="g") as name:
        for part in ("files", "ipc"):
            (Path(name) / part).mkdir()
        command = _bubblewrap(Limits(), Path(name), next(_users) if os.geteuid() == 0 else None)
        command += [*_prlimit(Limits()), sys.executable, "-c", "import ipykernel"]
        done = subprocess.run(command, env=_environment("/work"), capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise SandboxError(
            f"bubblewrap does not work here ({' '.join(done.stderr.split())[:300]}). "
            f"And {WITHOUT} To grade so all the same: --no-sandbox."
        )


class Sandbox:
    """One kernel: its process, its limits, the client that talks to it.

    `files` are copied to where the kernel starts. `reason` says why the watch ended it, if it did.
    """

    def __init__(self, limits: Limits, files: Path, *, sandboxed: bool = True) -> None:
        self.limits, self.reason, self.work = limits, "", "/work"
        self._sandboxed, self._mark = sandboxed, secrets.token_hex(16)
        self._stopped = threading.Event()
        self._context: zmq.Context | None = None
        # Short: a socket's address has at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="g"))
        try:
            self._start(files)
        except BaseException:
            self.stop()
            raise

    def _start(self, files: Path) -> None:
        ipc = self.folder / "ipc"
        ipc.mkdir()
        shutil.copytree(files, self.folder / "files")
        for path in (self.folder / "files", *(self.folder / "files").rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        user = next(_users) if self._sandboxed and os.geteuid() == 0 else None
        inside = "/ipc" if self._sandboxed else str(ipc)
        connection: KernelConnectionInfo = {
            "transport": "ipc",
            "ip": f"{inside}/k",
            "shell_port": 1,
            "iopub_port": 2,
            "stdin_port": 3,
            "control_port": 4,
            "hb_port": 5,
            "key": secrets.token_hex(16),
            "signature_scheme": "hmac-sha256",
            "kernel_name": "python3",
        }
        (ipc / "kernel.json").write_text(json.dumps(connection), encoding="utf-8")
        if user is not None:
            os.chown(ipc, user, user)
            os.chown(ipc / "kernel.json", user, user)
            os.chmod(self.folder, 0o711)
        self._launch(f"{inside}/kernel.json", user)
        threading.Thread(target=self._watch, daemon=True).start()
        self._context = context = zmq.Context()
        context.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE)
        context.setsockopt(zmq.LINGER, 0)
        self.client = BlockingKernelClient(context=context)
        self.client.load_connection_info({**connection, "ip": str(ipc / "k")})
        self._wait_until_ready()
        if user is not None:
            # From here on the student's code cannot add to the folder, nor change what is in it.
            os.chown(ipc, 0, 0)

    def _launch(self, connection_file: str, user: int | None) -> None:
        # -P: a student's random.py must not take the library's place before the kernel runs; afterwards, as
        # in JupyterLab, the folder of the notebook comes first.
        kernel = [sys.executable, "-P", "-m", "ipykernel_launcher", "-f", connection_file]
        kernel += ["--HistoryManager.enabled=False"]
        kernel += ["--IPKernelApp.exec_lines=__import__('sys').path.insert(0, '')"]
        if self._sandboxed:
            copy = ["sh", "-c", 'cp -r /files/. /work && exec "$@"', "sh"]
            command = [*_bubblewrap(self.limits, self.folder, user), *_prlimit(self.limits), *copy, *kernel]
            start = None
        else:
            start = self.folder / "work"
            shutil.copytree(self.folder / "files", start)
            self.work = str(start)
            # The limit on processes counts all of a user's, so that without a sandbox only the watch counts.
            bounds = [bound for bound in _prlimit(self.limits) if "nproc" not in bound]
            command = [*(bounds if shutil.which("prlimit") else []), *kernel]
        with open(self.folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                command,
                cwd=start,
                env={**_environment(self.work), "GRADING_SANDBOX": self._mark},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )

    def _wait_until_ready(self) -> None:
        sockets = [self.folder / "ipc" / f"k-{i}" for i in range(1, 6)]
        for _ in range(int(START_SECONDS / 0.02)):
            if all(socket.exists() for socket in sockets) or self.process.poll() is not None:
                break
            self._stopped.wait(0.02)
        try:
            if self.process.poll() is not None:
                raise RuntimeError("it ended")
            self.client.start_channels()
            self.client.wait_for_ready(timeout=START_SECONDS)
        except RuntimeError as error:
            with open(self.folder / "stderr", errors="replace", encoding="utf-8") as stderr:
                message = " ".join(stderr.read(2000).split())
            raise SandboxError(f"The kernel did not start: {self.reason or message or error}.") from None

    def other_processes(self) -> list[psutil.Process]:
        """All processes of the sandbox but the kernel and what carries it."""
        kernels, others = [], []
        for process in self._processes():
            with contextlib.suppress(psutil.Error, IndexError):
                command = process.cmdline()
                if "ipykernel_launcher" in command[1:5]:
                    kernels.append((process.create_time(), process.pid, process))
                elif process.status() != psutil.STATUS_ZOMBIE and Path(command[0]).name != "bwrap":
                    others.append(process)
        return [*others, *(process for *_, process in sorted(kernels)[1:])]

    def _processes(self) -> list[psutil.Process]:
        try:
            main = psutil.Process(self.process.pid)
            family = [main, *main.children(recursive=True)]
        except psutil.Error:
            family = []
        if not self._sandboxed:  # one that left the family still carries the mark
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error, OSError):
                    if process.environ().get("GRADING_SANDBOX") == self._mark and process not in family:
                        family.append(process)
        return family

    def _watch(self) -> None:
        while not self._stopped.wait(WATCH_SECONDS):
            used, processes = 0, self._processes()
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    used += process.memory_info().rss
            with contextlib.suppress(OSError):
                if len(list((self.folder / "ipc").iterdir())) > 16:
                    self.reason = "it wrote files where only the kernel's sockets belong"
            if used > self.limits.memory_mb * MB:
                self.reason = f"it used more than {self.limits.memory_mb} MB of memory"
            elif len(processes) > self.limits.processes:
                self.reason = f"it started more than {self.limits.processes} processes"
            if self.reason:
                self.kill()
                return

    def kill(self) -> None:
        """Ends every process of the sandbox at once."""
        if not hasattr(self, "process"):
            return
        for _ in range(5):
            processes = self._processes() if not self._sandboxed else []
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            if not processes:
                break
        self.process.wait()

    def stop(self) -> None:
        """Ends the kernel and removes all that it wrote. May be called twice."""
        self._stopped.set()
        self.kill()
        if self._context is not None:
            with contextlib.suppress(Exception):
                self.client.stop_channels()
            self._context.destroy(linger=0)
            self._context = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
