"""The ``trtlm`` command.

Exit codes: 0 ok; 1 some cases failed; 2 could not run.  Heavy packages are imported by the command that needs
them, never to show help.
"""

from __future__ import annotations

from typing import Annotated

import typer

from trt_landmarks import __version__
from trt_landmarks.cli.bench import bench
from trt_landmarks.cli.building import build, inspect
from trt_landmarks.cli.confidence import confidence
from trt_landmarks.cli.models import models
from trt_landmarks.cli.outputs import convert, report, view
from trt_landmarks.cli.scans import evaluate, infer
from trt_landmarks.cli.serving import serve
from trt_landmarks.cli.training import export, init, train
from trt_landmarks.errors import TrtlmError

app = typer.Typer(
    help="3D medical landmark localization, from a PyTorch checkpoint to a deployed, measured engine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the command; errors meant for people become one line and exit code 2."""
    try:
        app()
    except TrtlmError as error:
        typer.echo(f"trtlm: {error}", err=True)
        raise SystemExit(2) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trtlm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    deep: Annotated[bool, typer.Option(help="Load the slow packages too; takes some seconds.")] = False,
) -> None:
    """Show what is installed, what conflicts and what works here. Exit code 2 if inference on the CPU does not."""
    from trt_landmarks.doctor.report import doctor as run

    raise typer.Exit(run(as_json, deep))


for command in (models, init, train, export, confidence, build, inspect, infer, serve, bench):
    app.command()(command)
app.command("eval")(evaluate)
for on_results in (convert, view, report):
    app.command()(on_results)
app.command()(doctor)
