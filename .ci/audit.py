"""Report known vulnerabilities of all pinned packages, from PyPI: ``make audit``.

Exit code 1 if a package has one. Packages that cannot be checked are reported without a failure, because a machine
without a network must be able to build.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run pip-audit and report its result."""
    program = str(Path(sys.executable).parent / "pip-audit")
    asked = ["--requirement", str(ROOT / "requirements.lock"), "--disable-pip", "--require-hashes"]
    command = [program, *asked, "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if not done.stdout:
        sys.stderr.write(f"not audited: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}\n")
        return 0
    packages = json.loads(done.stdout)["dependencies"]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    known = [package for package in packages if "skip_reason" not in package]
    found = [(package, fault) for package in known for fault in package["vulns"]]
    for package, fault in found:
        fixed = ", ".join(fault["fix_versions"]) or "no version"
        sys.stderr.write(f"{package['name']} {package['version']}: {fault['id']}, fixed in {fixed}\n")
    sys.stderr.write(f"{len(known)} of {len(packages)} packages audited, {len(found)} vulnerabilities")
    sys.stderr.write(f"; not audited: {', '.join(unknown)}\n" if unknown else "\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
