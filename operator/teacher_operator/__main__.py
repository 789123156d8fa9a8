"""``teacher-operator``: run the operator, print its CRD, or test an installation from inside the cluster."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING

from engine import __version__

if TYPE_CHECKING:
    from teacher_operator.api.settings import Settings


def main() -> None:
    """Run the command line; each invalid variable of the environment is printed on one line, with exit code 2."""
    parser = argparse.ArgumentParser(prog="teacher-operator", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("run", help="run the operator (the default); settings are TEACHER_* variables")
    commands.add_parser("crd", help="print the CustomResourceDefinition")
    selftest = commands.add_parser("selftest", help="check an installation from a pod in its cluster")
    selftest.add_argument(
        "--url", required=True, help="URL of the operator's Service, such as http://teacher-operator:8080"
    )
    arguments = parser.parse_args()
    if arguments.command == "crd":
        from teacher_operator.api.crd import crd_yaml

        sys.stdout.write(crd_yaml())
    elif arguments.command == "selftest":
        from teacher_operator.runtime.selftest import selftest as run_selftest

        sys.exit(asyncio.run(run_selftest(arguments.url)))
    else:
        run()


def run() -> None:
    """Run the operator until it receives SIGTERM or SIGINT."""
    import kopf

    from teacher_operator.api.settings import Settings, SettingsError
    from teacher_operator.runtime import handlers, logs

    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    logs.configure(style=settings.log_format, level=settings.log_level)
    logging.getLogger("teacher_operator").info("%s", start_line(settings))
    kopf.run(
        registry=handlers.registry(settings),
        settings=handlers.kopf_settings(),
        namespaces=settings.namespaces,
        clusterwide=not settings.namespaces,
        standalone=True,
        identity=settings.pod_name,  # type: ignore[arg-type]  # default: the user's name, which may not exist in a container
    )


def start_line(settings: Settings) -> str:
    """Return the first line of the log: version, watched namespaces and images."""
    scope = f"namespaces {', '.join(settings.namespaces)}" if settings.namespaces else "all namespaces"
    election = ", with leader election" if settings.leader_election else ""
    images = f"operator image {settings.operator_image}, trainer image {settings.trainer_image}"
    return f"teacher-operator {__version__} started: watches {scope}{election}; {images}"


if __name__ == "__main__":
    main()
