"""Killed at any moment and started again: the same result, and nothing finished is repeated."""
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mfdan.core.config import PROFILES, RunConfig
from mfdan.core.files import MARKER
from mfdan.core.written import keep_written
from mfdan.corpus.write import list_clips, write_annotations, write_clip
from mfdan.data.planted import planted
from mfdan.data.prepared import load_prepared, save_prepared
from mfdan.data.root import read_root
from mfdan.pixels.prepare import prepare
from mfdan.results.reproduce import reproduce
from mfdan.training.loso import run_loso
from mfdan.training.plan import Run
from mfdan.training.predictions import load_predictions
from mfdan.zoo.contract import settings_of

KILLS = [3, pytest.param(20, marks=pytest.mark.slow)]
SETTINGS = replace(PROFILES["quick"], factors=(1, 4))


def train(folder: Path, store: Path):
    "All folds of a small run on planted data."
    prepared = load_prepared(folder)
    model, training = settings_of("mfdan", "smoke")
    run = Run("kill", "composite", model, replace(training, epochs=2))
    made = run_loso(prepared, [run], store, workers=2, progress=False)
    return made, load_predictions(store, prepared, run)


def make(root: Path, cache: Path):
    "The prepared folder of a few clips."
    return prepare(read_root(root).clips, SETTINGS, cache, workers=2, progress=False)


def killed(call: str, times: int, longest: float) -> None:
    "Run a call of this module in a process of its own, and kill it and its workers, repeatedly."
    rng = np.random.default_rng(0)
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" \
           f"from pathlib import Path\nimport test_kill\ntest_kill.{call}"
    for _ in range(times):
        process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(float(rng.uniform(3, longest)))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def products(home: Path, out: Path) -> dict[str, bytes]:
    "What the whole road makes: corpus, prepared folder, folds, notebooks, tables, a figure."
    os.environ["MFDAN_CACHE"] = str(home)
    run = RunConfig(profile="smoke", out=str(out))
    reproduce(run, only=["table_2", "table_3", "figure_5"])
    return {p.name: p.read_bytes() for p in sorted(run.folder.iterdir())
            if p.suffix in (".csv", ".md", ".tex", ".png")}


@pytest.mark.slow
def test_the_whole_road(tmp_path, monkeypatch):
    monkeypatch.setenv("MFDAN_CACHE", "")  # put back afterwards
    calm = products(tmp_path / "calm", tmp_path / "calm-out")
    home, out = tmp_path / "home", tmp_path / "out"
    killed(f"products(Path({str(home)!r}), Path({str(out)!r}))", 10, 14)
    assert products(home, out) == calm and {"table_3.csv", "figure_5.png"} <= set(calm)


@pytest.mark.parametrize("times", KILLS)
def test_training(tmp_path, times):
    data = tmp_path / "prepared"
    save_prepared(planted(n_subjects=9, per_subject=3), data)
    _, calm = train(data, tmp_path / "calm")
    store = tmp_path / "killed"
    killed(f"train(Path({str(data)!r}), Path({str(store)!r}))", times, 9)
    before = {p: p.stat().st_mtime_ns for p in store.glob("*.json")}
    made, again = train(data, store)
    assert again.to_csv() == calm.to_csv()
    assert made.reused == len(before) and made.trained == 9 - len(before), made
    assert all(p.stat().st_mtime_ns == when for p, when in before.items())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    "One SMIC-HS subject of the embedded corpus."
    root = tmp_path_factory.mktemp("corpus")
    clips = [c for c in list_clips("quick", 0) if c.subject == "s01"]
    write_annotations(root, [write_clip(root, clip) for clip in clips])
    (root / MARKER).write_text('{"corpus": "quick", "seed": 0, "version": 1}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MFDAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        keep_written(root)
        yield root


@pytest.mark.parametrize("times", KILLS)
def test_preparing(corpus, tmp_path, times):
    calm = make(corpus, tmp_path / "calm")
    killed(f"make(Path({str(corpus)!r}), Path({str(tmp_path / 'killed')!r}))", times, 9)
    again = make(corpus, tmp_path / "killed")
    names = sorted(p.name for p in calm.folder.iterdir())
    assert names == sorted(p.name for p in again.folder.iterdir()) and "flow.npy" in names
    for name in names:
        assert (calm.folder / name).read_bytes() == (again.folder / name).read_bytes(), name


def test_a_torn_fold_is_noticed_and_trained_again(tmp_path):
    data = tmp_path / "prepared"
    save_prepared(planted(n_subjects=3, per_subject=3), data)
    _, calm = train(data, tmp_path / "store")
    torn = sorted((tmp_path / "store").glob("*.json"))[0]
    torn.write_bytes(torn.read_bytes()[:-40])
    made, again = train(data, tmp_path / "store")
    assert (made.trained, made.reused) == (1, 2) and any(torn.name in n for n in made.notes), made
    assert again.to_csv() == calm.to_csv()
