"""What several test files share."""
import shutil
from pathlib import Path

import pytest

from mfdan.core.config import RunConfig
from mfdan.core.written import records
from mfdan.corpus.write import embedded_corpus
from mfdan.results.reproduce import reproduce

ROAD = ("what_counts", "table_2", "table_3", "figure_5")  # a few notebooks of `make paper`


def film_ready(cache: Path) -> Path:  # the corpus
    "A new cache that holds `quick` already, filmed when a test first asked for it."
    filmed, known = embedded_corpus("quick"), records()
    shutil.copytree(known, cache / "corpora" / known.name)
    return shutil.copytree(filmed, cache / "corpora" / filmed.name)


@pytest.fixture(scope="session")
def road(tmp_path_factory):
    "Their products, in a cache of their own that holds the corpus alone; the run, and its report."
    home = tmp_path_factory.mktemp("road")
    film_ready(home / "cache")
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
