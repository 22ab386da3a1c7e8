"""How a task is trained: everything that is not part of the task itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from trt_landmarks.training.augmentation import Augmentation
from trt_landmarks.training.loop import Schedule

#: Nets that have a schedule of their own.
KINDS = ("coarse", "shared", "independent", "correlated")


@dataclass(frozen=True)
class Settings:
    """Schedules and augmentation of a training run.

    The recipe is AdamW with one cycle and averaged weights, not the paper's SGD: on small sets it needs a
    tenth of the steps.  ``shared`` is a further departure: one U-Net first learns all landmarks at once, and
    every landmark's own nets start from it.

    Attributes:
        seed: of everything random.
        keep: ``best`` keeps each net's best validation, ``last`` its end (use it when validating on few scans).
        noise: standard deviation of the patch centres, as a fraction of the patch's edge (paper: 1/6).
        coarse, shared, independent, correlated: schedule of each kind of net.
        coarse_augmentation, fine_augmentation: random views.
    """

    seed: int = 0
    keep: Literal["best", "last"] = "best"
    noise: float = 1 / 6
    coarse: Schedule = field(default_factory=lambda: Schedule(steps=2600, batch=6, learning_rate=1e-3))
    shared: Schedule = field(default_factory=lambda: Schedule(steps=600, batch=8, learning_rate=2e-3))
    independent: Schedule = field(default_factory=lambda: Schedule(steps=150, batch=8, learning_rate=1e-3))
    correlated: Schedule = field(default_factory=lambda: Schedule(steps=500, batch=4, learning_rate=1e-3))
    coarse_augmentation: Augmentation = field(default_factory=Augmentation)
    fine_augmentation: Augmentation = field(default_factory=lambda: Augmentation(rotation_deg=8.0))

    def shortened(self, factor: float) -> Settings:
        """The same with every schedule's steps multiplied by ``factor`` (at least 1)."""

        def short(schedule: Schedule) -> Schedule:
            return replace(schedule, steps=max(1, round(schedule.steps * factor)))

        return replace(
            self, coarse=short(self.coarse), shared=short(self.shared),
            independent=short(self.independent), correlated=short(self.correlated),
        )  # fmt: skip

    def with_steps(self, steps: Mapping[str, int]) -> Settings:
        """The same with other numbers of steps for some :data:`KINDS` of nets."""
        return replace(self, **{kind: replace(getattr(self, kind), steps=count) for kind, count in steps.items()})

    def with_contrast(self, share: float) -> Settings:
        """The same with other grey values in a ``share`` of the views of both stages."""
        return replace(
            self,
            coarse_augmentation=replace(self.coarse_augmentation, contrast=share),
            fine_augmentation=replace(self.fine_augmentation, contrast=share),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint's record."""
        return asdict(self)
