"""Fixtures of the end-to-end tests. Sockets need short paths, so directories lie in /tmp, one a test."""
import pathlib
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "e2e"))
import harness  # noqa: E402


@pytest.fixture
def directory():
    path = tempfile.mkdtemp(prefix="assay-")
    yield pathlib.Path(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def broker():
    """One broker with the demo model for a module's tests."""
    path = tempfile.mkdtemp(prefix="assay-")
    with harness.Broker(path) as running:
        yield running
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=["DEALER", "REQ"])
def client(broker, request):
    """A client of each kind."""
    with broker.client(request.param) as c:
        yield c
