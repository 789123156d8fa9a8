"""The command fetch: adapters of a published run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli import options
from engine.cli.run_lookup import find_run
from engine.layout import RunLayout


def fetch(
    run: Annotated[
        str, typer.Argument(help="A run's folder, <output>/<name>/<run id>/, or the name of a TeacherFineTune.")
    ],
    folder: Annotated[Path, typer.Argument(help="Local folder to fill.", callback=options.only_local)],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Where the name is; default: the current one.")
    ] = None,
    overwrite: options.Overwrite = False,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Fetch a published run's adapters, and check them against their sha256."""
    from engine.results.run_files import fetch_run

    found = find_run(run, namespace=namespace)
    storage = options.storage(
        endpoint_url or found.endpoint_url,
        found.region,
        addressing_style=found.addressing_style,
        requester_pays=found.requester_pays,
        azure_account=found.azure_account,
        google_project=found.google_project,
    )
    for path in fetch_run(RunLayout(found.uri.rstrip("/")), folder, storage=storage, overwrite=overwrite):
        typer.echo(str(path))
