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


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What `pytest -n 2 --dist loadgroup` leaves together: a file, whose fixtures are made once;
    and all that walks the road, in whichever file, since that takes a minute to make. It is begun
    first, so that no process waits for it in the end.
    """
    for item in items:
        group = "road" if "road" in item.fixturenames else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: "road" not in item.fixturenames)
