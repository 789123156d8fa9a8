"""A real control plane for tests: etcd, kube-apiserver and kube-controller-manager on free loopback ports.

No scheduler and no kubelet: tests play those, so that every state of a pod can be brought about at will. Of the
controllers run those that the operator rests on: Jobs, garbage collection, service accounts, namespaces, Services.
"""

from __future__ import annotations

import base64
import ctypes
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from ports import free_ports

DEFAULT_ASSETS = "/usr/local/kubebuilder/bin"
NEEDED = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
CONTROLLERS = (
    "job-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "resourcequota-controller",
    "endpointslice-controller",
)
START_SECONDS = 120.0


def assets() -> Path:
    return Path(os.environ.get("KUBEBUILDER_ASSETS") or DEFAULT_ASSETS)


def missing() -> str:
    """Why there can be no control plane; empty if there can."""
    absent = [name for name in NEEDED if not os.access(assets() / name, os.X_OK)]
    return f"no {', '.join(absent)} in {assets()} (KUBEBUILDER_ASSETS)" if absent else ""


@dataclass(frozen=True)
class Access:
    """How to reach an API server."""

    url: str
    authority: str
    """PEM of the certificate authority."""
    token: str

    def kubeconfig(self, path: Path) -> Path:
        cluster: dict[str, Any] = {"server": self.url}
        if self.authority:
            cluster["certificate-authority-data"] = base64.b64encode(self.authority.encode()).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cadata=self.authority) if self.authority else None


@dataclass
class ControlPlane:
    """Runs in a folder of its own until it is stopped."""

    folder: Path
    access: Access
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    flags: dict[str, Sequence[str]] = field(default_factory=dict)

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    @classmethod
    def start(cls, folder: Path, flags: Sequence[str] = ()) -> ControlPlane:
        """Start etcd and the API server, the latter with more flags if given."""
        etcd, peer, port = free_ports(3)
        token, key = secrets.token_hex(16), folder / "accounts.key"
        write_certificate(folder / "accounts.crt", key)
        (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
        self = cls(folder, Access(f"https://127.0.0.1:{port}", "", token))
        etcd_url = f"http://127.0.0.1:{etcd}"
        self._run(
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls={etcd_url}",
            f"--advertise-client-urls={etcd_url}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
            "--log-level=error",
        )
        self._run(
            "kube-apiserver",
            f"--etcd-servers={etcd_url}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={port}",
            f"--cert-dir={folder / 'pki'}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",  # as on OpenShift
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={key}",
            f"--service-account-key-file={folder / 'accounts.crt'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--enable-priority-and-fairness=false",
            "--max-requests-inflight=0",
            "--max-mutating-requests-inflight=0",
            *flags,
        )
        self._wait_until_ready()
        self.access.kubeconfig(self.kubeconfig)
        return self

    def control(self, controllers: Sequence[str] = CONTROLLERS, flags: Sequence[str] = ()) -> None:
        """Start the controllers. Kinds that are defined later are known to them half a minute later."""
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--authentication-kubeconfig={self.kubeconfig}",
            f"--authorization-kubeconfig={self.kubeconfig}",
            "--secure-port=0",
            "--leader-elect=false",
            f"--controllers={','.join(controllers)}",
            "--concurrent-job-syncs=20",
            "--kube-api-qps=2000",
            "--kube-api-burst=4000",
            *flags,
        )

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM if process is self.processes[0] else signal.SIGKILL)
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)  # it is large, and pytest keeps folders

    def kubectl(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return kubectl(self.kubeconfig, *arguments, stdin=stdin)

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """A part of it that was started here, by its name."""
        return self.processes[list(self.flags).index(name)]

    def restart(self, name: str) -> None:
        """Kill a part and start it again; what it depends on is not waited for."""
        at = list(self.flags).index(name)
        self.processes[at].kill()
        self.processes[at].wait()
        later = self.processes[at + 1 :]
        del self.processes[at:]
        self._run(name, *self.flags[name])
        self.processes += later

    def _run(self, name: str, *flags: str) -> None:
        self.flags[name] = flags
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [assets() / name, *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.processes.append(process)

    def _wait_until_ready(self) -> None:
        """Until the API server answers; its certificate, which it makes itself, is known from then on."""
        deadline, certificate = time.monotonic() + START_SECONDS, self.folder / "pki" / "apiserver.crt"
        while True:
            for process in self.processes:
                if process.poll() is not None:
                    logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))
                    raise RuntimeError(f"{process.args} has ended\n{logs}")
            try:
                if certificate.exists():
                    self.access = Access(self.access.url, certificate.read_text(), self.access.token)
                    request = urllib.request.Request(f"{self.access.url}/readyz")
                    request.add_header("Authorization", f"Bearer {self.access.token}")
                    urllib.request.urlopen(request, timeout=5, context=self.access.context()).close()
                    return
            except (OSError, urllib.error.HTTPError, ssl.SSLError):
                pass
            if time.monotonic() > deadline:
                raise RuntimeError("the API server does not become ready")
            time.sleep(0.1)


def kubectl(kubeconfig: Path, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(assets() / "kubectl"), f"--kubeconfig={kubeconfig}", f"--cache-dir={kubeconfig.parent / 'cache'}"]
    return subprocess.run([*command, *arguments], input=stdin, capture_output=True, text=True, check=False)


def die_with_parent() -> None:
    """In a child, on Linux: end when whoever started it ends, however that comes about."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def write_certificate(certificate: Path, key: Path, *, names: Sequence[str] = ("127.0.0.1",)) -> None:
    """A self-signed certificate with its key."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    begin = datetime.now(UTC) - timedelta(hours=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    built = builder.not_valid_before(begin).not_valid_after(begin + timedelta(days=7)).sign(private, hashes.SHA256())
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
