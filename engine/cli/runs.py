"""Commands that train, and what comes before and after: run, prepare, train, fetch, doctor."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli import options
from engine.cli.display import console, is_terminal, show_info, show_results
from engine.cli.outcome_file import OutcomeFile, failures_in
from engine.cli.run_lookup import find_run
from engine.config import RunConfig, from_yaml
from engine.errors import ConfigError, NoProgressError, TeacherError
from engine.layout import RunLayout
from engine.manifest import Manifest
from engine.plan import TrainingRun
from engine.processes.launch import Place
from engine.results.events import Event, Listener
from engine.results.no_gain import check_gain
from engine.results.outcome import Outcome, Prepared, TeacherOutcome, write_outcome
from engine.results.run_files import RunMetadata
from engine.results.types import TeacherResult
from engine.spec import Crowds, TeacherName
from engine.storage import Storage, default_cache
from engine.storage.bounded_read import MANIFEST_BYTES, read_bounded
from engine.text.pydantic_errors import parse

if TYPE_CHECKING:
    from engine.training.distributed import Processes


class ProgressStyle(StrEnum):
    """Form of the progress output."""

    AUTO = "auto"
    BAR = "bar"
    LINES = "lines"
    JSON = "json"


Progress = Annotated[
    ProgressStyle,
    typer.Option(
        "--progress",
        help="A bar, lines of text, or JSON lines on standard output; auto: a bar in a terminal, else lines of text.",
    ),
]
ManifestFile = Annotated[str, options.MANIFEST_FILE]
WorkDir = Annotated[
    Path | None,
    typer.Option("--work-dir", help="Scratch folder; default: in the cache folder.", callback=options.only_local),
]


def run(
    manifest: ManifestFile,
    set_: options.Set = None,
    again: Annotated[bool, typer.Option("--again", help="Train even if this very run is published.")] = False,
    progress: Progress = ProgressStyle.AUTO,
    work_dir: WorkDir = None,
) -> None:
    """Run a manifest: inspect the data, train the teachers, publish the adapters."""
    from engine import runner
    from engine.fine_tune import train_all

    request = options.read_manifest(manifest)
    storage = options.storage_of(request)
    info, runs = runner.prepare(request, storage, overrides=options.overrides(set_))
    show_info(info)
    layout = runs[0].layout
    done = None if again else runner.published(layout, storage, runs[0].config)
    if done is None:
        done = train_all(info, runs, storage, listener=_listener(progress), work_dir=work_dir, again=again)
    else:
        console.print("this very run is published already; --again trains it again", style="dim")
    _show_run(layout, done, runs[0].config)


def prepare(
    manifest: ManifestFile,
    set_: options.Set = None,
    outcome: OutcomeFile = None,
) -> None:
    """Prepare a run: inspect the data, and write the trainers' input to storage. Needs no torch."""
    from engine import runner
    from engine.estimate.forecast import needs

    with failures_in(outcome):
        request = options.read_manifest(manifest)
        storage = options.storage_of(request)
        info, runs = runner.prepare(request, storage, overrides=options.overrides(set_))
        show_info(info)
        layout = runs[0].layout
        done = runner.published(layout, storage, runs[0].config)
        if done is None:
            runner.begin(info, runs, storage)
        else:
            console.print("this very run is published already", style="dim")
    if outcome is not None:
        needed = needs(runs[0].config, info, storage)
        write_outcome(outcome, Outcome(prepared=Prepared.of(info, runs, published=done, needs=needed)))
    typer.echo(layout.root)


def train(
    config: Annotated[str | None, typer.Option("--config", help="teacher_config.yaml of a planned run.")] = None,
    teacher: Annotated[
        list[TeacherName] | None, typer.Option("--teacher", help="Only this teacher; repeatable.", **options.TEACHER)
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="COCO JSON to train on.")] = None,
    val: Annotated[str | None, typer.Option("--val", help="COCO JSON to select on; default: 20 % of --data.")] = None,
    test: Annotated[str | None, typer.Option("--test", help="COCO JSON to measure on at the end.")] = None,
    images: options.Images = None,
    crowds: options.CrowdChoice = Crowds.IGNORE,
    output: Annotated[str | None, typer.Option("--output", help="Where adapters go; s3:// or path.")] = None,
    name: Annotated[str, typer.Option("--name", help="Artifacts go to <output>/<name>/<run id>/.")] = "run",
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Hub id, folder or s3:// prefix; with one --teacher.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate")] = None,
    lora_preset: options.Preset = None,
    lora_rank: Annotated[int | None, typer.Option("--lora-rank")] = None,
    lora_alpha: Annotated[int | None, typer.Option("--lora-alpha", help="Default: twice the rank.")] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
    progress: Progress = ProgressStyle.AUTO,
    work_dir: WorkDir = None,
    outcome: OutcomeFile = None,
) -> None:
    """Train from flags, or one planned run from its teacher_config.yaml."""
    from engine import runner

    flags = {"--data": data, "--val": val, "--test": test, "--output": output, "--base-model": base_model}
    flags |= {"--crowds": crowds.value} if crowds is not Crowds.IGNORE else {}
    given = [flag for flag, value in flags.items() if value is not None]
    if config is not None and given:
        raise ConfigError(f"--config holds every setting already: leave out {', '.join(given)}")
    if config is not None:
        _train_planned(config, teacher, progress, work_dir, endpoint_url, outcome)
        return
    if outcome is not None:
        raise ConfigError("--outcome needs --config: it describes one teacher of a planned run")
    if Place.of(os.environ).size > 1:
        raise ConfigError("several processes train one planned run: give --config")
    if data is None or output is None:
        raise ConfigError("give --data and --output, or --config of a planned run")
    if base_model is not None and len(teacher or []) != 1:
        raise ConfigError("--base-model goes with exactly one --teacher: each teacher has a base of its own")
    dataset: dict[str, Any] = {"annotations": data, "images": images}
    if val is not None:
        dataset = {"train": {"annotations": data}, "val": {"annotations": val}, "images": images}
        dataset |= {"test": {"annotations": test}} if test else {}
    elif test is not None:
        raise ConfigError("--test goes with --val: without --val, 20 % of --data are the validation part")
    spec = {
        "dataset": dataset | {"crowds": crowds.value},
        "output": output,
        "storage": {"endpointUrl": endpoint_url},
        "teachers": [{"name": one.value, "baseModel": base_model} for one in teacher or []],
    }
    request = parse(Manifest, {"name": name, "spec": spec}, where="the command line")
    flags_set = {
        "training.seed": seed,
        "teachers.*.epochs": epochs,
        "teachers.*.batch_size": batch_size,
        "teachers.*.learning_rate": learning_rate,
        "teachers.*.lora.preset": lora_preset and lora_preset.value,
        "teachers.*.lora.rank": lora_rank,
        "teachers.*.lora.alpha": lora_alpha,
    }
    overrides = {path: value for path, value in flags_set.items() if value is not None} | options.overrides(set_)
    storage = options.storage_of(request)
    info, runs = runner.prepare(request, storage, overrides=overrides)
    show_info(info)
    layout = runs[0].layout
    done = runner.published(layout, storage, runs[0].config)
    if done is None:
        runner.begin(info, runs, storage)
        for one in runs:
            _train_one(one, storage, _listener(progress), work_dir)
        done = runner.published(layout, storage, runs[0].config)
    if done is not None:
        _show_run(layout, done, runs[0].config)


def _train_planned(
    config_uri: str,
    teachers: list[TeacherName] | None,
    progress: ProgressStyle,
    work_dir: Path | None,
    endpoint_url: str | None,
    outcome: Path | None,
) -> None:
    """Train what a ``teacher_config.yaml`` says, perhaps as one of several processes; this is what a Job runs."""
    speaks = Place.of(os.environ).rank == 0
    listener = _listener(progress) if speaks else _silent
    processes: Processes | None = None
    teacher = teachers[0] if teachers else None
    results: list[TeacherResult] = []
    try:
        with failures_in(outcome, results):
            content = read_bounded(options.storage(endpoint_url), config_uri, limit=MANIFEST_BYTES, error=ConfigError)
            config = from_yaml(content, where=config_uri)
            names = teachers or config.teachers.names
            if outcome is not None and len(names) != 1:
                raise ConfigError(f"--outcome describes one teacher, not {', '.join(names)}: give one --teacher")
            from engine.training.device import GPUS, check_gpus
            from engine.training.distributed import joined

            check_gpus(int(os.environ.get(GPUS) or 0))
            with joined() as processes:
                for teacher in names:
                    run = TrainingRun(teacher, config)
                    hung = partial(_hung, outcome, teacher.slug)
                    results.append(_train_one(run, options.storage_of(config), listener, work_dir, processes, hung))
            check_gain(results, config.training.on_no_gain)
    except TeacherError as error:
        slug = teacher.slug if teacher is not None else ""
        listener(Event(event="error", teacher=slug, message=str(error), reason=error.reason, exit_code=error.exit_code))
        # The JSON lines contain the failure already; other processes than the first leave the report to it.
        if progress is ProgressStyle.JSON if speaks else processes is not None and processes.told:
            raise typer.Exit(error.exit_code) from None
        raise
    if outcome is not None:
        write_outcome(outcome, Outcome(trained=TeacherOutcome.of(results[-1])))


def _train_one(
    run: TrainingRun,
    storage: Storage,
    listener: Listener,
    work_dir: Path | None,
    processes: Processes | None = None,
    on_hang: Callable[[NoProgressError], None] | None = None,
) -> TeacherResult:
    from engine.fine_tune import only_here, scratch_of
    from engine.training.distributed import ALONE
    from engine.training.publish import train_and_publish
    from engine.training.watchdog import print_failure

    folder, processes = work_dir or scratch_of(run.layout), processes or ALONE
    with only_here(run, folder) if processes.first else nullcontext():
        return train_and_publish(
            run,
            storage=storage,
            listener=listener,
            work_dir=folder,
            cache=default_cache(),
            processes=processes,
            on_hang=on_hang or print_failure,
        )


def _hung(outcome: Path | None, teacher: str, error: NoProgressError) -> None:
    """Report a failure from another thread than the hanging one, which may hold the streams."""
    event = Event(event="error", teacher=teacher, message=str(error), reason=error.reason, exit_code=error.exit_code)
    if outcome is not None:
        write_outcome(outcome, Outcome.failure(error))
    for stream, text in ((2, f"error: {error}\n"), (1, f"\n{event.line()}\n")):
        with suppress(OSError):  # the reader may have ended
            os.write(stream, text.encode())


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


def doctor(endpoint_url: options.Endpoint = None) -> None:
    """Check that this machine can train, and print what is missing."""
    from engine.cli.doctor import checks

    failed = 0
    for check in checks(endpoint_url):
        mark = {"ok": "[green]ok[/]", "warn": "[yellow]warning[/]", "fail": "[red]missing[/]"}[check.state]
        console.print(f"{mark:<24} {check.name:<12}", end=" ")
        console.print(check.message, markup=False, soft_wrap=True)
        failed += check.state == "fail"
    if failed:
        raise typer.Exit(1)


def _listener(style: ProgressStyle) -> Listener:
    from engine.cli.progress_output import bar, json_lines, lines

    if style is ProgressStyle.AUTO:
        style = ProgressStyle.BAR if is_terminal() else ProgressStyle.LINES
    listeners: dict[ProgressStyle, Callable[[], Listener]] = {
        ProgressStyle.BAR: bar,
        ProgressStyle.LINES: lines,
        ProgressStyle.JSON: json_lines,
    }
    return listeners[style]()


def _silent(event: Event) -> None:
    pass


def _show_run(layout: RunLayout, metadata: RunMetadata, config: RunConfig) -> None:
    """Print what was published.

    Raises:
        NotBetterThanBaseError: An adapter is not better than its base, and that is to fail.
    """
    show_results(metadata.teachers)
    console.print(layout.report, markup=False, soft_wrap=True)
    typer.echo(layout.root)
    check_gain(metadata.teachers, config.training.on_no_gain)
