"""What every test runs under: a cache folder of its own, in the environment, so that worker processes use it too."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser):
    parser.addoption("--whole", action="store_true", help="also run the tests marked `whole`")


def pytest_collection_modifyitems(config, items):
    """What is marked `whole` runs where it is asked for: by `make ttsem`."""
    if not config.getoption("--whole"):
        items[:] = [item for item in items if item.get_closest_marker("whole") is None]


@pytest.fixture(scope="session", autouse=True)
def cache_folder_of_the_session(tmp_path_factory):
    """Keeps tests out of the user's cache, and of what an older compiler left there."""
    before = os.environ.get("GRADC_CACHE_DIR")
    os.environ["GRADC_CACHE_DIR"] = str(tmp_path_factory.mktemp("gradc-cache"))
    yield
    if before is None:
        del os.environ["GRADC_CACHE_DIR"]
    else:
        os.environ["GRADC_CACHE_DIR"] = before
