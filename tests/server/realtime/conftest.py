"""A client of the video protocol, before and after its session is configured."""

import pytest
from live_clients import Client


@pytest.fixture
def client():
    return Client()


@pytest.fixture
def ready(client):
    client.configure()
    return client
