"""Will it fit, and how long does it take: what `teacher inspect` says of training."""

from __future__ import annotations

from rich.table import Table

from engine.cli.display import console, note
from engine.config import TeacherSettings, generate_config
from engine.dataset.types import DatasetInfo
from engine.errors import TeacherError
from engine.fit import GPUS, Predicted, choose, options, run_seconds, shown
from engine.outlook import find_base
from engine.spec import DatasetSpec, FineTuneSpec, TeacherName, TeacherSpec
from engine.storage import Storage

GIBIBYTES = (8, 16, 24, 40, 80)


def show_outlook(info: DatasetInfo, base_model: str, gpu: str, storage: Storage) -> None:
    """For each teacher that the data calls for: memory, what is chosen on GPUs of some sizes, and the time on one."""
    teachers = [TeacherSpec(name=TeacherName.GROUNDING_DINO, base_model=base_model)] if info.has_boxes else []
    teachers += [TeacherSpec(name=TeacherName.SAM)] if info.has_masks else []
    spec = FineTuneSpec(dataset=DatasetSpec(annotations=info.source), output="out", teachers=teachers)
    try:
        config = generate_config(info, spec)
    except TeacherError:
        return  # what is wrong with the data has been told
    for name in config.teachers.names:
        settings = config.teachers.of(name)
        if settings is not None:
            _show(name, settings, info, gpu, storage)


def _show(name: TeacherName, settings: TeacherSettings, info: DatasetInfo, gpu: str, storage: Storage) -> None:
    base, transform = find_base(settings, storage)
    shows = shown(info, settings, transform)
    kind = GPUS[gpu]
    ways = [] if base is None else list(options(base, settings, shows, bfloat16=kind.bfloat16))
    if base is None or not ways:
        note(f"{name}: what {settings.base_model} needs of a GPU is not known beforehand, or it is no {name}")
        return
    note(f"{name} ({settings.base_model}, preset {settings.lora.preset}, steps of {settings.batch_size} images):")
    table = Table("on a GPU of", "images at once", "computed again", "GPU memory", box=None, header_style="dim")
    for gibibytes in GIBIBYTES:
        one = choose(base, settings, shows, bfloat16=kind.bfloat16, room=gibibytes * 2**30)
        what = ("has no room", "", "") if one is None else _row(one)
        table.add_row(f"{gibibytes} GiB", *what)
    console.print(table)
    one = choose(base, settings, shows, bfloat16=kind.bfloat16, room=kind.gibibytes * 2**30)
    if one is not None:
        measured = max(1, info.images // 5)
        seconds = run_seconds(one, settings, kind, images=max(1, info.images - measured), measured=measured)
        note(
            f"{settings.epochs} epochs take about {_duration(seconds)} on one {gpu}: by its data sheet, not measured, "
            "so that half or twice as long is no surprise"
        )


def _row(one: Predicted) -> tuple[str, str, str]:
    return str(one.at_once), ", ".join(one.checkpointing) or "nothing", f"{one.memory_bytes / 2**30:.1f} GiB"


def _duration(seconds: float) -> str:
    """In a unit that suits it.

    >>> _duration(90), _duration(5000), _duration(40_000)
    ('2 minutes', '1.4 hours', '11 hours')
    """
    if seconds < 3600:
        return f"{max(1, round(seconds / 60))} minutes"
    return f"{seconds / 3600:.2g} hours"
