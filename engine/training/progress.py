"""Listeners of a run's events: few enough of them for a log, and curves for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.progress import Event, Listener


def thinned(listener: Listener, *, seconds: float) -> Listener:
    """Pass on at most one step event in ``seconds``, with the mean loss since the last; and every other event.

    Time is that of the events. A step that was held back is passed on before the next event of another kind.
    """
    held: list[Event] = []
    last = float("-inf")

    def pass_on() -> None:
        nonlocal last
        if held:
            newest = held[-1]
            losses = [event.loss for event in held if event.loss is not None]
            listener(newest.model_copy(update={"loss": sum(losses) / len(losses)} if losses else {}))
            last = newest.time
            held.clear()

    def listen(event: Event) -> None:
        if event.event == "step":
            held.append(event)
            if event.time - last >= seconds:
                pass_on()
        else:
            pass_on()
            listener(event)

    return listen


@contextmanager
def tensorboard(folder: Path) -> Iterator[Listener]:
    """Write curves for TensorBoard into ``folder``; a resumed run goes on where its checkpoint was."""
    from torch.utils.tensorboard import SummaryWriter  # its import takes a second that only training should pay

    writers: list[SummaryWriter] = []

    def listen(event: Event) -> None:
        if event.step is None:
            return
        if not writers:
            writers.append(SummaryWriter(str(folder), purge_step=event.step))
        (writer,) = writers
        for tag, value in _scalars(event).items():
            writer.add_scalar(tag, value, event.step, walltime=event.time)
        if event.event != "step":
            writer.flush()

    try:
        yield listen
    finally:
        for writer in writers:
            writer.close()


def _scalars(event: Event) -> dict[str, float]:
    if event.event == "step":
        values = {
            "train/loss": event.loss,
            "train/learning_rate": event.learning_rate,
            "train/images_per_second": event.images_per_second,
            **{f"train/{name}": value for name, value in (event.losses or {}).items()},
        }
        return {tag: value for tag, value in values.items() if value is not None}
    if event.event == "evaluation" and event.ap is not None:
        return {f"ap/{event.phase}": event.ap}
    return {}
