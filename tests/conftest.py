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


# -- `pytest -n 2 --dist loadfile` ----------------------------------------------------------------

WALKERS = {f"tests/test_{name}.py" for name in (  # the files that ask for `road`
    "add_table", "browser", "kill", "paper", "quiet", "refusals", "road", "film")}


def walks(nodeid: str) -> bool: return nodeid.split("::")[0] in WALKERS


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "The road's files first, since it takes a minute to make; each of them must be known."
    for item in items:
        if "road" in item.fixturenames and not walks(item.nodeid):
            raise pytest.UsageError(f"{item.nodeid} asks for `road`: name its file in WALKERS of "
                                    "tests/conftest.py, or every process makes a road of its own")
    items.sort(key=lambda item: not walks(item.nodeid))


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    "One process runs all tests of a file, whose fixtures are made once; and one the whole road."
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "road" if walks(nodeid) else super()._split_scope(nodeid)

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None
