"""What several test files share."""
import pytest

from mfdan.core.config import RunConfig
from mfdan.results.reproduce import reproduce

ROAD = ("what_counts", "table_2", "table_3", "figure_5")  # a few notebooks of `make paper`


@pytest.fixture(scope="session")
def road(tmp_path_factory):
    "Their products, made from nothing in a cache of their own; the run, and its report."
    home = tmp_path_factory.mktemp("road")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MFDAN_CACHE", str(home / "cache"))
        run = RunConfig(profile="smoke", out=str(home / "out"))
        yield run, reproduce(run, only=ROAD)
