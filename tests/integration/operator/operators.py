"""The operator under test: a process of its own, or a thread of the test."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import kopf
import kubernetes.aio.config.kube_config
import kubernetes.config.kube_config
from control_plane import die_with_parent
from ports import free_port

from teacher_operator.api.settings import PREFIX, Settings
from teacher_operator.runtime import handlers

SETTINGS: dict[str, Any] = {
    "operator_image": "registry.example/operator:1",
    "trainer_image": "registry.example/trainer:1",
    "progress_seconds": 1,
}


class Operator(Protocol):
    """Can be started, and ended well or badly, again and again."""

    port: int

    async def start(self) -> None:
        """Begin to work; what happened meanwhile is caught up with."""

    async def kill(self) -> None:
        """End at once, whatever is under way."""

    async def stop(self) -> None:
        """Ask it to end, and wait until it has."""


class ProcessOperator:
    """``python -m teacher_operator``, as it runs in its image."""

    def __init__(self, kubeconfig: Path, log: Path, **settings: Any) -> None:
        self.port = free_port()
        self._log = log
        given = SETTINGS | settings | {"port": self.port}
        texts = {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in given.items()}
        clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        clean |= {f"{PREFIX}{name.upper()}": text for name, text in texts.items()}
        self.environment = clean | {"KUBECONFIG": str(kubeconfig)}
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """From a thread that lives on: Linux takes the end of the thread for that of the parent."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "teacher_operator"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    async def start(self) -> None:
        self.launch()
        await self.ready()

    async def ready(self, *, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not await asyncio.to_thread(self._is_ready):
            assert self._process is not None
            assert self._process.poll() is None, f"the operator has ended: {self.text()[-2000:]}"
            assert time.monotonic() < deadline, f"the operator does not become ready: {self.text()[-2000:]}"
            await asyncio.sleep(0.1)

    async def kill(self) -> None:
        self.end(signal.SIGKILL)

    async def stop(self) -> None:
        await asyncio.to_thread(self.end, signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal that does not end it."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def wait(self, seconds: float) -> int | None:
        """Its exit code, once it has ended by itself; None if it does not."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        self.end(signal.SIGKILL)
        return None

    def end(self, how: signal.Signals) -> int | None:
        """Its exit code."""
        if self._process is None:
            return None
        os.killpg(self._process.pid, how)
        code = self._process.wait(timeout=60)
        self._process = None
        return code

    def text(self) -> str:
        """Its log."""
        return self._log.read_text() if self._log.exists() else ""

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                json.load(answer)
                return True
        except (OSError, urllib.error.HTTPError):
            return False


class ThreadOperator:
    """kopf with the operator's own handlers and its own client, in a thread of the test's process.

    A loop of its own, since kopf cancels whatever it finds in its loop when it ends.
    """

    def __init__(self, kubeconfig: Path, sever: Callable[[bool], None], **settings: Any) -> None:
        self.port = free_port()
        self._settings = Settings(**(SETTINGS | settings | {"port": self.port}))
        self.namespaces = self._settings.namespaces
        self._kubeconfig = kubeconfig
        self._sever = sever
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    async def start(self) -> None:
        # The clients read the variable when they are imported.
        for module in (kubernetes.config.kube_config, kubernetes.aio.config.kube_config):
            module.KUBE_CONFIG_DEFAULT_LOCATION = str(self._kubeconfig)
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert await asyncio.to_thread(started.wait, 30), "the operator has not started"

    async def kill(self) -> None:
        """Nothing that it does from now on has an effect."""
        self._sever(True)
        await self._end(lambda: self._task and self._task.cancel())
        self._sever(False)

    async def stop(self) -> None:
        await self._end(self._stop.set)

    async def _end(self, how: Callable[[], Any]) -> None:
        if self._thread is not None and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(how)
            await asyncio.to_thread(self._thread.join, 30)
            assert not self._thread.is_alive(), f"the operator does not end:\n{self._at_work()}"
            self._thread = None

    def _at_work(self) -> str:
        """Where its tasks and threads stand."""
        told = io.StringIO()
        for task in asyncio.all_tasks(self._loop):
            print(task, file=told)
            task.print_stack(file=told)
        for thread, frame in sys._current_frames().items():
            print(f"thread {thread}", *traceback.format_stack(frame), file=told)
        return told.getvalue()

    def _run(self, started: threading.Event) -> None:
        async def main() -> None:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            self._stop = asyncio.Event()
            ready = asyncio.Event()
            telling = asyncio.create_task(ready.wait())
            telling.add_done_callback(lambda _: started.set())
            await kopf.operator(
                registry=handlers.registry(self._settings),
                settings=handlers.kopf_settings(),
                clusterwide=not self._settings.namespaces,
                namespaces=self._settings.namespaces,
                standalone=True,
                ready_flag=ready,
                stop_flag=self._stop,
            )

        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(main())
