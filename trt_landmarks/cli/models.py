"""The command ``models``: what ships with the package."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer


def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models that ship with the package."""
    from trt_landmarks.bundles.bundle import MODEL_VARIABLE, SHIPPED, open_bundle

    rows = []
    default = os.environ.get(MODEL_VARIABLE) or SHIPPED[0]
    for name in SHIPPED:
        bundle = open_bundle(name, verify=False)
        metrics = bundle.manifest.get("training", {}).get("metrics", {})
        overall = metrics.get("fine", {}).get("overall", {})
        rows.append(
            {
                "name": name,
                "default": name == default,
                "description": bundle.task.description,
                "landmarks": len(bundle.task.landmarks),
                "validation_mre_mm": overall.get("mre_mm"),
                "validation_cases": len(metrics.get("cases", [])),
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['name']}{' (default)' if row['default'] else ''}: {row['description']}")
        if row["validation_mre_mm"] is not None:
            error = f"MRE {row['validation_mre_mm']:.2f} mm on {row['validation_cases']} validation cases"
            typer.echo(f"  {row['landmarks']} landmarks; {error}")
