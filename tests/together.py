"""Several processes that do the same, forked from a test."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
from ports import free_port

from engine.processes.launch import Rank
from engine.training.distributed import Processes, joined


def together(work: Callable[..., Any], *arguments: Any, count: int = 2, here: int | None = None) -> list[Any]:
    """What ``work(processes, *arguments)`` gives or raises in each process; None of one that was killed.

    Args:
        work: What each does.
        arguments: Of ``work``.
        count: Of processes.
        here: How many of them are on a machine; default: all.
    """
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    running = []
    for rank in range(count):
        own = Rank(rank, count, rank % (here or count), here or count)
        told, tell = Pipe(duplex=False)
        process = get_context("fork").Process(target=_one, args=(tell, meeting | own.variables(), work, arguments))
        process.start()
        tell.close()
        running.append((process, told))
    results = []
    for process, told in running:
        try:
            results.append(pickle.loads(told.recv_bytes()) if told.poll(120) else "it hangs")
        except EOFError:
            results.append(None)
        process.kill()
        process.join()
    return results


def _one(tell: Connection, environment: dict[str, str], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    try:
        with joined() as processes:
            result = work(processes, *arguments)
    except BaseException as error:  # noqa: BLE001 - signals too
        result = error
    tell.send_bytes(pickle.dumps(result))  # as a whole: the memory of its tensors is gone with this process
    tell.close()
    os._exit(0)


__all__ = ["Processes", "together"]
