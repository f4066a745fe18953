"""One server for all tests that need nothing special of it."""

import pytest
from running import serving


@pytest.fixture(scope="session")
def server():
    with serving() as running:
        yield running
