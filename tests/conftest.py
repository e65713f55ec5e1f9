"""What every test runs under: a cache folder of its own, in the environment, so that worker processes use it too."""

from __future__ import annotations

import os

import pytest

from gradc.codegen import small


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


@pytest.fixture(autouse=True)
def products_as_large_ones(request, monkeypatch, tmp_path):
    """Tests multiply small matrices in place of large ones, so products use the matrix unit, except where a test is marked."""
    if request.node.get_closest_marker("small_products"):
        monkeypatch.setenv("GRADC_CACHE_DIR", str(tmp_path / "small"))  # plans are kept by program, not by these limits
    else:
        monkeypatch.setattr(small, "SURELY", 0)
        monkeypatch.setattr(small, "PERHAPS", 0)
