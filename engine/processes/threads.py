"""Wait policy and number of torch's OpenMP threads, set before torch is loaded, which reads them once.

By default threads that wait for one another spin. Where other processes use the machine too, the one that is waited for
has no core to run on, and a small step takes ten times as long.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


_ours: dict[str, str] = {}


def set_thread_defaults() -> None:
    """Have waiting threads sleep, and start no more of them than the CPU quota of the container allows.

    What the user has set stays. Once torch is loaded nothing is set: it would hold for child processes alone.
    """
    if "torch" in sys.modules:
        return
    defaults = {"OMP_WAIT_POLICY": "PASSIVE"}
    if usable_cores() < len(os.sched_getaffinity(0)):
        defaults["OMP_NUM_THREADS"] = str(usable_cores())
    for name, value in defaults.items():
        if name not in os.environ:
            os.environ[name] = _ours[name] = value


def threads_each(processes: int) -> dict[str, str]:
    """Environment variables of processes that share this machine, unless the user has set the number of threads."""
    if os.environ.get("OMP_NUM_THREADS") not in (None, _ours.get("OMP_NUM_THREADS")):
        return {}
    return {"OMP_NUM_THREADS": str(max(1, usable_cores() // processes))}


def usable_cores() -> int:
    """Cores that this process may use, of the machine's and by the CPU quota of its container."""
    cores = len(os.sched_getaffinity(0))
    return min(cores, _cores_of_quota(CPU_QUOTA) or cores)


def _cores_of_quota(file: Path) -> int | None:
    """Cores of a quota (cgroup v2), rounded up; None without one."""
    try:
        quota, period = file.read_text().split()
        return None if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return None
