"""What PyCUDA has not: CUDA graphs.

Through ``cuda.bindings.driver`` (package cuda-bindings), whose calls return a code and their results.  **Not verified
on a GPU:** all of it; tested on the real cuda-bindings over an emulated driver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trt_landmarks.errors import EngineError


def load_driver() -> Any:
    """The module ``cuda.bindings.driver``.

    Raises:
        EngineError: if it is not installed.
    """
    try:
        from cuda.bindings import driver
    except Exception as error:  # its own errors as well as a missing package
        raise EngineError(
            f"cuda.bindings cannot be used: {error}.", "Install it with: pip install cuda-bindings."
        ) from None
    return driver


def checked(result: tuple[Any, ...], call: str) -> Any:
    """The result of a driver's call.

    Raises:
        EngineError: if its code is not success.
    """
    code, *values = result
    if int(code) != 0:
        raise EngineError(f"CUDA: {call} gave {getattr(code, 'name', code)}.", code="cuda_failed")
    return values[0] if values else None


class CudaGraph:
    """Work of a stream, captured once and launched again as a whole.

    It reads and writes the very addresses of the capture.  The CUDA context must be current, here and in every call.
    """

    def __init__(self, driver: Any, stream: int, work: Callable[[], None]) -> None:
        """Capture what ``work`` gives to the stream; nothing of it runs.

        Raises:
            EngineError: if it cannot be captured; the stream is as it was.
        """
        self._driver, self._stream = driver, driver.CUstream(stream)
        # Of this thread alone: others may allocate meanwhile.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        checked(driver.cuStreamBeginCapture(self._stream, mode), "cuStreamBeginCapture")
        try:
            work()
        except BaseException:
            code, graph = driver.cuStreamEndCapture(self._stream)  # a capture that failed leaves no graph
            if int(code) == 0:
                driver.cuGraphDestroy(graph)
            raise
        graph = checked(driver.cuStreamEndCapture(self._stream), "cuStreamEndCapture")
        try:
            self._graph = checked(driver.cuGraphInstantiate(graph, 0), "cuGraphInstantiate")
        finally:
            driver.cuGraphDestroy(graph)

    def launch(self) -> None:
        """Enqueue the work on its stream."""
        checked(self._driver.cuGraphLaunch(self._graph, self._stream), "cuGraphLaunch")

    def free(self) -> None:
        """Destroy it; it must not be running."""
        checked(self._driver.cuGraphExecDestroy(self._graph), "cuGraphExecDestroy")
