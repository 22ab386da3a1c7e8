"""The two Python modules of TensorRT."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from onnx import TensorProto

from tests.engines.tensorrt.plans import build, small_graph
from trt_landmarks.engines.tensorrt.flavours import FLAVOURS, RTX, TENSORRT, Log, load_flavour
from trt_landmarks.errors import EngineError
from trt_landmarks.system import install_command


@pytest.mark.parametrize(("name", "extra"), [(TENSORRT, "gpu"), (RTX, "rtx")])
def test_a_flavour_that_is_not_there_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, FLAVOURS[name][0], None)
    with pytest.raises(EngineError, match=re.escape(install_command(extra))):
        load_flavour(name)
    monkeypatch.setitem(sys.modules, FLAVOURS[name][0], ModuleType("stub"))
    with pytest.raises(EngineError, match="does not load"):
        load_flavour(name)


def test_warnings_and_errors_are_kept_and_nothing_is_printed(
    rtx: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    log = Log(rtx)
    assert log.last() == "it gives no reason"
    severity = rtx.ILogger.Severity
    for level in (severity.VERBOSE, severity.WARNING, severity.ERROR, severity.INTERNAL_ERROR):
        log.logger.log(level, f"a\n  {level.name}.")
    assert log.warnings == ["a WARNING.", "a ERROR.", "a INTERNAL_ERROR."]
    assert log.errors == log.warnings[1:] and log.last() == "a ERROR.; a INTERNAL_ERROR"
    assert not Log(rtx).warnings
    for n in range(2000):
        log.logger.log(severity.ERROR, str(n))
    assert log.errors[-1] == "1999" and len(log.errors) <= 1000
    assert capfd.readouterr() == ("", "")


def test_a_build_beside_another_still_says_what_is_wrong(rtx: ModuleType, tmp_path: Path) -> None:
    """TensorRT ignores a second logger while an object with the first one lives."""
    first = Log(rtx)
    builder = rtx.Builder(first.logger)
    second = Log(rtx)
    path = small_graph(tmp_path / "net.onnx", kind=TensorProto.FLOAT16)
    with pytest.raises(EngineError, match=r"cannot (parse|build) this graph: (?!it gives no reason)"):
        build(path, tmp_path / "net.plan")
    assert builder is not None and second.errors and not [t for t in second.warnings if "differs from one" in t]
