"""Looks up runs by name, with resolvers that are registered as entry points, such as the operator's.

Each entry point of the group ``teacher.runs`` is a callable ``(name: str, namespace: str | None) -> ResolvedRun``. It
raises a TeacherError if the run does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from engine.errors import ConfigError
from engine.spec import AddressingStyle

GROUP = "teacher.runs"


@dataclass(frozen=True)
class ResolvedRun:
    """Location of a published run, with the options of its storage."""

    uri: str
    """The run's folder: ``<output>/<name>/<run id>``."""
    endpoint_url: str | None = None
    region: str | None = None
    addressing_style: AddressingStyle | None = None
    requester_pays: bool | None = None
    azure_account: str | None = None
    google_project: str | None = None


Resolver = Callable[[str, str | None], ResolvedRun]


def find_run(run: str, *, namespace: str | None = None) -> ResolvedRun:
    """Find a run by its folder, or by its name with an installed resolver.

    Args:
        run: URI or path of the run's folder, or a name without a slash. An existing folder of that name has precedence.
        namespace: Namespace of the name; not allowed with a folder.

    Raises:
        ConfigError: A name was given and no resolver is installed; or a namespace was given for a folder.
        TeacherError: The run does not exist.
    """
    if "/" in run or (namespace is None and Path(run).exists()):
        if namespace is not None:
            raise ConfigError(f"--namespace goes with a name, but {run} is a folder: leave it out")
        return ResolvedRun(run)
    return _resolver(run)(run, namespace)


def _resolver(run: str) -> Resolver:
    """Return the first usable resolver: the dependencies of an entry point may be missing."""
    missing = ""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            return _loaded(point)
        except ImportError as error:
            missing = f" ({error})"
    raise ConfigError(
        f"{run!r} is no folder here, and nothing that is installed knows runs by name{missing}: install "
        "teacher-finetune[operator] to look it up in a cluster, or give the run's URI, <output>/<name>/<run id>/"
    )


def _loaded(point: EntryPoint) -> Resolver:
    resolver: Resolver = point.load()
    return resolver
