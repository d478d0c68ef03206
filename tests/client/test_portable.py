"""The client, the wire and the client's commands must import where Linux's own modules and calls are missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What other systems do not have, of what this code base uses somewhere.
MODULES = ["fcntl", "resource", "termios", "pwd", "grp", "pty", "thespian", "setproctitle", "uvicorn", "starlette"]
CALLS = {
    "os": (
        "eventfd eventfd_read eventfd_write pidfd_open fork forkpty register_at_fork sendfile posix_fadvise preadv "
        "pwritev readv writev pipe2 fdatasync getuid geteuid getpgid setsid killpg sched_getaffinity waitpid wait4 "
        "memfd_create splice copy_file_range statvfs O_DIRECTORY O_CLOEXEC O_NONBLOCK RWF_NOWAIT SCHED_OTHER"
    ),
    "socket": "AF_UNIX SO_REUSEPORT SO_PEERCRED SCM_RIGHTS TCP_USER_TIMEOUT TCP_KEEPIDLE CMSG_LEN send_fds recv_fds",
    "signal": "pthread_sigmask pthread_kill sigwait SIGKILL SIGSTOP SIGCONT SIGHUP SIGCHLD SIGUSR1 SIGUSR2",
    "select": "epoll poll EPOLLIN EPOLLOUT",
    "time": "clock_gettime CLOCK_MONOTONIC",
}
SCRIPT = """
import asyncio, concurrent.futures, importlib, importlib.abc, os, pkgutil, select, signal, socket, subprocess, sys
import shutil, tempfile, time, threading  # the standard library's own modules adapt where they are loaded

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"no module named {{name!r}} on this system", name=name)

sys.meta_path.insert(0, Absent())
for name in {modules!r}:
    sys.modules.pop(name, None)
for module, calls in {calls!r}.items():
    for call in calls.split():
        if hasattr(sys.modules[module], call):
            delattr(sys.modules[module], call)
{body}
"""


def run_elsewhere(body: str) -> subprocess.CompletedProcess[str]:
    """The body, in an interpreter without all of that."""
    script = SCRIPT.format(modules=MODULES, calls=CALLS, body=body)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize("package", ["logeion.client", "logeion.wire"])
def test_every_module_of_the_package_imports(package: str) -> None:
    done = run_elsewhere(
        f"package = importlib.import_module({package!r})\n"
        "names = [one.name for one in pkgutil.walk_packages(package.__path__, package.__name__ + '.')]\n"
        "assert len(names) > 5, names\n"
        "for name in names: importlib.import_module(name)\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_public_names_import() -> None:
    done = run_elsewhere(
        "import logeion\n"
        "for name in logeion.__all__: getattr(logeion, name)\n"
        "from logeion.aio import Admin, Consumer, Producer, connect\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["topic", "produce", "consume", "group", "actors"])
def test_the_commands_of_a_client_show_their_help(command: str) -> None:
    done = run_elsewhere(f"from logeion.cli.main import main\nmain([{command!r}, '--help'])\n")
    assert done.returncode == 0, done.stderr
    assert "Usage: logeion" in done.stdout


def test_the_broker_says_that_it_needs_linux() -> None:
    done = run_elsewhere("sys.platform = 'darwin'\nfrom logeion.cli.main import main\nmain(['up'])\n")
    assert done.returncode == 1
    assert "runs on Linux only" in done.stderr and "try:" in done.stderr
