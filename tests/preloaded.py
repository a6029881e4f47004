"""Fresh processes that need not import torch and transformers, which takes 4 s of CPU each time.

    python -I preloaded.py serve NAME                        imports them, then forks on request
    python -I preloaded.py run NAME LAUNCHER SCRIPT REQUEST  the script, in a process forked there

``run`` behaves like ``python -I LAUNCHER SCRIPT REQUEST``: the forked process has its working
folder and standard output, holds nothing of birdbone, and is killed with it. Where that would not
be the same it starts an interpreter of its own: in another environment than the server's, and for a
script that does not import transformers.

The server listens on the abstract socket NAME and ends when its standard input is closed.
"""

from __future__ import annotations

import json
import os
import runpy
import selectors
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_OF_NO_EFFECT = ("PYTEST_CURRENT_TEST", "COLUMNS", "LINES")
_MOST = 1 << 20  # bytes of a request, which holds an environment


def serve(name: str) -> None:
    """Fork a process for every request, until standard input is closed."""
    environment = _environment()  # which the imports change
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

    waiting = socket.socket(socket.AF_UNIX)
    waiting.bind(f"\0{name}")
    waiting.listen()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    ready = selectors.DefaultSelector()
    ready.register(sys.stdin, selectors.EVENT_READ)
    ready.register(waiting, selectors.EVENT_READ)
    running: dict[int, tuple[int, socket.socket]] = {}  # by pidfd: process id and its caller
    while True:
        for key, _ in ready.select():
            if key.fileobj is sys.stdin:
                _end(running)
                return
            if key.fileobj is waiting:
                caller = waiting.accept()[0]
                _begin(caller, environment, running, ready)
            elif isinstance(key.fileobj, int):  # a process ended
                _finish(key.fileobj, running, ready)
            else:  # its caller was killed
                os.kill(key.data, signal.SIGKILL)
                ready.unregister(key.fileobj)


def _begin(
    caller: socket.socket,
    environment: dict[str, str],
    running: dict[int, tuple[int, socket.socket]],
    ready: selectors.BaseSelector,
) -> None:
    message, (output,), _, _ = socket.recv_fds(caller, _MOST, 1)
    asked = json.loads(message)
    if asked["environment"] != environment:
        os.close(output)
        caller.sendall(b"other")
        caller.close()
        return
    child = os.fork()
    if child == 0:
        _become(asked, output)
    os.close(output)
    watched = os.pidfd_open(child)
    running[watched] = child, caller
    ready.register(watched, selectors.EVENT_READ)
    ready.register(caller, selectors.EVENT_READ, child)


def _finish(
    watched: int, running: dict[int, tuple[int, socket.socket]], ready: selectors.BaseSelector
) -> None:
    """Report the exit status of a process to its caller."""
    child, caller = running.pop(watched)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ready.unregister(watched)
    os.close(watched)
    if caller in ready.get_map():
        ready.unregister(caller)
        caller.sendall(str(code).encode())
    caller.close()


def _end(running: dict[int, tuple[int, socket.socket]]) -> None:
    for child, _ in running.values():
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _become(asked: Mapping[str, Any], output: int) -> None:
    """Be the process that was asked for; never returns."""
    code = 1
    try:
        os.dup2(output, 1)
        os.chdir(asked["folder"])
        sys.argv = asked["command"]
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(name: str, command: list[str]) -> None:
    """Run a command in a forked process and end as it does."""
    if "from transformers import" in Path(command[1]).read_text(encoding="utf-8"):
        status = _forked(name, command)
        if status < 0:
            os.kill(os.getpid(), -status)
        sys.exit(status)
    _plainly(command)


def _forked(name: str, command: list[str]) -> int:
    asked = {"command": command, "folder": os.getcwd(), "environment": _environment()}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(f"\0{name}")
        socket.send_fds(server, [json.dumps(asked).encode()], [1])
        reply = server.recv(16)
    if reply == b"other":
        _plainly(command)
    return int(reply)


def _plainly(command: list[str]) -> None:
    os.execv(sys.executable, [sys.executable, "-I", *command])


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in _OF_NO_EFFECT}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        run(sys.argv[2], sys.argv[3:])
