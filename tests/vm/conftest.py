"""VM hosts for tests: `vm` is one of the usual size, `vms(n, ...)` makes several or others. All are gone after the
test; when it failed, the end of each console is in its report."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.testbed.state import open_session
from tests.testbed.vm import open_vm
from tests.testbed.vmimage import TestbedUnavailable, image
from tests.testbed.vmqemu import Machine

ROOT = Path(__file__).resolve().parents[2]
_RUNNING = pytest.StashKey()


@pytest.fixture(scope="session")
def testbed():
    """The session that owns the hosts; what a crashed one left is gone first. The image is made here if need be."""
    try:
        image()
    except TestbedUnavailable as error:
        pytest.skip(str(error))
    session = open_session()
    yield session
    session.close()


@pytest.fixture(scope="session")
def zipapp(tmp_path_factory):
    """The host plane of this checkout, as it is installed."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import build_zipapp
    finally:
        sys.path.remove(str(ROOT / "tools"))
    path = tmp_path_factory.mktemp("zipapp") / "osremed-host.pyz"
    build_zipapp.build(str(ROOT), str(path))
    return path


@pytest.fixture
def vms(request, testbed):
    """`vms(2, slow_disk=True)`: a list of hosts named vm0, vm1, ..., each a `Machine` with these options."""
    running = request.node.stash.setdefault(_RUNNING, [])

    def start(count=1, **options):
        made = []
        for _ in range(count):
            made.append(open_vm(testbed, Machine(**options), name=f"vm{len(running)}"))
            running.append(made[-1])
        return made

    yield start
    for host in running:
        host.close()


@pytest.fixture
def vm(vms):
    return vms(1)[0]


@pytest.fixture
def plane(tmp_path):
    """A control plane on this machine; closed after the test."""
    from tests.soak.plane import Plane

    plane = Plane(tmp_path / "plane")
    yield plane
    plane.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and call.when == "call":
        for host in item.stash.get(_RUNNING, []):
            report.sections.append((f"console of {host.directory.name}", host.console()))
    return report
