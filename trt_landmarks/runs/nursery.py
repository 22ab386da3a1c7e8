"""The process that reader processes come from: it imports what they need once, and forks them.

It has one thread, so that forking is safe, and none of what the command computes with.  A reader calls the functions
that it is sent and answers with what they return; arrays go back through anonymous memory, whose descriptor is sent:
it has no name, so that nothing is left behind whoever dies.  All of them end when the command does, however it ends.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import tempfile
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

#: Arrays of so many bytes go through shared memory, smaller ones through the pipe.
SHARED_FROM = 1 << 16
#: Where an array begins in shared memory: at a multiple of so many bytes.
ALIGNMENT = 64
#: The first of the system's choices when memory runs out is a reader, not the command (0 to 1000).
_OOM_SCORE = "900"

#: How an answer begins: what the function returned, or what it raised; or how the reader ended.
RETURNED, RAISED, ENDED = "returned", "raised", "ended"


def main(descriptor: int, memory: int | None) -> None:
    """Fork a reader for every connection that comes, and say on it how the reader ended.

    Args:
        descriptor: of the connection to the command; all ends when it is closed.
        memory: bytes that a reader may have; None for any number.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for the command, which ends this process
        signal.signal(number, signal.SIG_IGN)
    control = Connection(descriptor)
    import SimpleITK  # noqa: F401

    import trt_landmarks.scan.read  # noqa: F401

    gc.freeze()  # so that forks share what was imported
    fork = get_context("fork")
    readers: dict[int, tuple[Any, Connection]] = {}
    while True:
        for ready in wait([control, *readers]):
            if isinstance(ready, int):
                process, line = readers.pop(ready)
                process.join()
                try:
                    line.send_bytes(pickle.dumps((ENDED, process.exitcode)))
                except OSError:  # nobody waits for it any more
                    pass
                line.close()
                continue
            try:
                order = control.recv_bytes()
                if order:  # the process id of a reader that is to end
                    for process, _ in readers.values():
                        if process.pid == int(order):
                            process.kill()
                    continue
                line = Connection(recv_handle(control))
            except (EOFError, OSError):
                for process, _ in readers.values():
                    process.kill()
                os._exit(0)
            others = [control, *(other for _, other in readers.values())]
            process = fork.Process(target=_read, args=(line, others, memory), daemon=True)
            process.start()
            readers[process.sentinel] = process, line


def _read(line: Connection, others: Sequence[Connection], memory: int | None) -> None:
    """A reader: calls what it is sent until its connection is closed."""
    for other in others:
        other.close()
    _bound(memory)
    line.send_bytes(str(os.getpid()).encode())
    while True:
        try:
            request = line.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            function, arguments = pickle.loads(request)
            answer = RETURNED, function(*arguments)
        except Exception as error:
            answer = RAISED, _sendable(error)
        try:
            _send(line, answer)
        except MemoryError as error:
            _send(line, (RAISED, error))
        del answer


def _bound(memory: int | None) -> None:
    """Let the system end this process first when memory runs out, let it have no more than it may, and dump no core."""
    import resource  # not every system has it

    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(_OOM_SCORE)
    except OSError:  # not every system has it
        pass
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if memory is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _sendable(error: Exception) -> Exception:
    """The exception itself where the other side can make it again, else its text."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _send(line: Connection, answer: tuple[str, Any]) -> None:
    """Send an answer: what is small through the pipe, large arrays through anonymous memory."""
    arrays: list[memoryview] = []

    def large(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < SHARED_FROM:
            return True
        arrays.append(view)
        return False

    content = pickle.dumps(answer, protocol=5, buffer_callback=large)
    sizes = [view.nbytes for view in arrays]
    memory = _anonymous() if sizes else None
    try:
        if memory is not None:
            at = 0
            for view in arrays:
                _write(memory, view, at)
                at += -(-view.nbytes // ALIGNMENT) * ALIGNMENT
        line.send_bytes(pickle.dumps((sizes, content)))
        if memory is not None:
            send_handle(line, memory, None)
    finally:
        if memory is not None:
            os.close(memory)


def _anonymous() -> int:
    """A descriptor of memory without a name; of a file without one where the system has no such memory."""
    if hasattr(os, "memfd_create"):
        try:
            return os.memfd_create("trtlm-scan")
        except OSError:
            pass
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _write(descriptor: int, view: memoryview, at: int) -> None:
    while view:
        try:
            written = os.pwrite(descriptor, view, at)
        except OSError as error:
            raise MemoryError(str(error)) from None
        view, at = view[written:], at + written
