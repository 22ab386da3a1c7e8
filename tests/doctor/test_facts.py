"""What the machine and the files of packages tell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.doctor.stand_ins import PLAIN, fake, install, loaded
from trt_landmarks.doctor import facts as facts_module
from trt_landmarks.doctor.facts import gather
from trt_landmarks.doctor.report import make_report, render


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release\nGCC version: 13", "580.65.06"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256  Thu", "470.256"),
        ("something else", ""),
    ],
)
def test_the_kernel_driver(text: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_module, "KERNEL_DRIVER", tmp_path)
    monkeypatch.setattr(facts_module, "ask", lambda groups: {})
    assert gather().kernel_driver is None
    (tmp_path / "version").write_text(text)
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    found = gather()
    assert found.kernel_driver == version and found.cards == 1


@pytest.mark.parametrize(
    ("line", "cuda"),
    [
        ("cuda: Optional[str] = None", ""),
        ("cuda: Optional[str] = '13.0'", "13.0"),
        ('cuda = "12.8"', "12.8"),
        ("hip = None", None),
    ],
)
def test_the_cuda_of_torch_is_read_not_loaded(line: str, cuda: str | None, site: Path) -> None:
    install(site, "torch", "2.13.0")
    fake(site, "torch.version", f"__version__ = '2.13.0'\n{line}\n")
    (site / "torch" / "__init__.py").write_text("raise RuntimeError")
    assert facts_module._torch_cuda() == cuda


def test_what_cannot_be_gathered_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> Any:
        raise OSError("broken")

    for name in ("installed", "requirements", "ask", "_kernel_driver", "_cards", "_machine"):
        monkeypatch.setattr(facts_module, name, broken)
    found = gather()
    assert len(found.faults) == 6 and all("broken" in fault for fault in found.faults)
    report = make_report(found)
    assert not report["verdict"]["ok"] and "broken" in render(report)


def test_without_packaging_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    monkeypatch.setattr(facts_module, "ask", lambda groups: loaded(*PLAIN))
    found = gather()
    assert "packaging" in found.faults[0] and found.installed
    assert make_report(found)["verdict"]["ok"]
