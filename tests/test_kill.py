"""Killed at any moment and started again: the same result, and nothing finished is repeated."""
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from conftest import ROAD
from test_loso import start

from mfdan.core.config import PROFILES, RunConfig, TrainConfig
from mfdan.core.files import MARKER
from mfdan.core.written import keep_written
from mfdan.corpus.write import list_clips, write_annotations, write_clip
from mfdan.data.planted import planted
from mfdan.data.prepared import load_prepared, save_prepared
from mfdan.data.root import read_root
from mfdan.network.settings import MFDANConfig
from mfdan.pixels.prepare import prepare
from mfdan.results.reproduce import reproduce
from mfdan.training.loso import run_loso
from mfdan.training.plan import Run
from mfdan.training.predictions import load_predictions

KILLS = [3, pytest.param(20, marks=pytest.mark.slow)]
SETTINGS = replace(PROFILES["quick"], factors=(1, 4))
TINY = MFDANConfig(image_size=28, width=12, heads=(1, 2), mergings=0)


def train(folder: Path, store: Path, workers: int = 2):
    "All folds of a small run on planted data."
    prepared = load_prepared(folder)
    run = Run("kill", "composite", TINY, TrainConfig(epochs=2, batch=16, lr=1e-3))
    made = run_loso(prepared, [run], store, workers=workers, progress=False)
    return made, load_predictions(store, prepared, run)


def make(root: Path, cache: Path):
    "The prepared folder of a few clips."
    return prepare(read_root(root).clips, SETTINGS, cache, workers=2, progress=False)


def started(code: str, *arguments: str) -> subprocess.Popen:
    "Some code in a process that leads a group and hears Ctrl-C, even below one that does not."
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def start_of(call: str) -> subprocess.Popen:
    "A call of this module in a process of its own, which leads a group."
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" \
           f"from pathlib import Path\nimport test_kill\ntest_kill.{call}"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed(call: str, times: int, longest: float) -> None:
    "Run a call of this module in a process of its own, and kill it and its workers, repeatedly."
    rng = np.random.default_rng(0)
    for _ in range(times):
        process = start_of(call)
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


def finished(home: Path, out: Path) -> int:
    "How much of the road is behind: clips prepared, folds trained, notebooks executed."
    return sum(len([*folder.glob(pattern)]) for folder, pattern in (
        (home, "corpora/quick-*"), (home, "parts/*.npz"), (home, "prepared/*/meta.json"),
        (home, "folds/*.json"), (out, "*/notebooks/*.key"), (out, "*/report.html")))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_road(tmp_path, monkeypatch):
    "Killed twenty times, evenly over all that is made, from the corpus to the report."
    monkeypatch.setenv("MFDAN_CACHE", "")  # put back afterwards
    calm = products(tmp_path / "calm", tmp_path / "calm-out")
    home, out, there = tmp_path / "home", tmp_path / "out", [0]
    whole = finished(tmp_path / "calm", tmp_path / "calm-out")
    call = f"products(Path({str(home)!r}), Path({str(out)!r}))"
    for number in range(20):
        enough = max(whole * number // 21, there[-1]) + 1
        kill_when(call, lambda enough=enough: finished(home, out) >= enough)
        there.append(finished(home, out))
    print(f"of {whole}, at each kill:", *there[1:])
    assert all(np.diff(there) > 0) and there[-1] < whole  # each added some, none came too late
    assert products(home, out) == calm and {"table_3.csv", "figure_5.png"} <= set(calm)


def kill_when(call: str, ready) -> None:
    "Run a call of this module, and kill it and its workers a moment after something is so."
    process, rng = start_of(call), np.random.default_rng(0)
    while not ready():
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    time.sleep(float(rng.uniform(0, 0.2)))
    everybody = [process.pid, *(child.pid for child in kernels_of(process.pid))]
    os.killpg(process.pid, signal.SIGKILL)
    for pid in everybody[1:]:  # a kernel leads a group of its own
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError: continue
    process.wait()


def kernels_of(pid: int) -> list[psutil.Process]:
    "The kernels of notebooks that a process or its workers execute."
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if "ipykernel_launcher" in child.cmdline(): found.append(child)
        except psutil.Error: continue  # it has just ended
    return found


def records(store: Path) -> dict[str, dict]:
    "All that a store's folds say, but how long they took."
    made = {path.name: json.loads(path.read_text()) for path in store.glob("*.json")}
    for record in made.values():
        for name in ("seconds", "commit", "digest"): del record[name]
    return made


def killed_in_its_course(data: Path, store: Path, times: int, folds: int) -> list[int]:
    "Kill a training `times` times, evenly over its folds; how many there were at each."
    rng, there = np.random.default_rng(0), [0]
    for number in range(times):
        enough, workers = folds * (number + 1) // (times + 1), 1 if number % 4 else 2
        enough = max(enough, there[-1] + 1)
        process = start_of(f"train(Path({str(data)!r}), Path({str(store)!r}), {workers})")
        while len([*store.glob("*.json")]) < enough:
            assert process.poll() is None, f"it ended before kill {len(there)}"
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.5)))  # anywhere in the next folds
        assert process.poll() is None, f"it ended before kill {len(there)}"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        there.append(len([*store.glob("*.json")]))
    return there


@pytest.mark.parametrize("times, subjects", [
    pytest.param(3, 12, id="3"),
    pytest.param(20, 84, id="20", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_training(tmp_path, times, subjects):
    data = tmp_path / "prepared"
    save_prepared(planted(n_subjects=subjects, per_subject=3, size=28), data)
    _, calm = train(data, tmp_path / "calm", workers=1)
    store = tmp_path / "killed"
    there = killed_in_its_course(data, store, times, subjects)
    print("folds at each kill:", *there)
    assert all(np.diff(there) > 0) and there[-1] < subjects  # each added some, all came too early
    before = {p: p.stat().st_mtime_ns for p in store.glob("*.json")}
    made, again = train(data, store)
    assert again.to_csv() == calm.to_csv() and records(store) == records(tmp_path / "calm")
    assert made.reused == len(before) and made.trained == subjects - len(before), made
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
    save_prepared(planted(n_subjects=3, per_subject=3, size=28), data)
    _, calm = train(data, tmp_path / "store")
    torn = sorted((tmp_path / "store").glob("*.json"))[0]
    torn.write_bytes(torn.read_bytes()[:-40])
    made, again = train(data, tmp_path / "store")
    assert (made.trained, made.reused) == (1, 2) and any(torn.name in n for n in made.notes), made
    assert again.to_csv() == calm.to_csv()


# -- the driver alone, and Ctrl-C ---------------------------------------------------------------

LOSO = """
import sys
from mfdan.cli import main
from mfdan.training import cluster
cluster.connect.__defaults__ = (5.0,)
sys.exit(main(["loso", "--profile", "smoke", "--workers", "2", "--prepared", *sys.argv[1:]]))
"""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MFDAN_CACHE", str(tmp_path / "cache"))
    save_prepared(planted(n_subjects=30, per_subject=3), tmp_path / "data")
    return tmp_path / "cache"


class Driver:
    "A command with two workers, in a group of its own, seen when it has finished some folds."

    def __init__(self, cache: Path, *arguments: str, more: int = 1):
        self.folds = cache / "folds"
        start = len(self.kept())
        self.process = started(LOSO, str(cache.parent / "data"), *arguments)
        while len(self.kept()) < start + more:
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def kept(self) -> list[Path]: return [*self.folds.glob("*.json")]

    def left(self, seconds: float = 10) -> list[psutil.Process]:
        "Which of its children go on after some seconds."
        end, there = time.monotonic() + seconds, self.children
        while there and time.monotonic() < end:
            time.sleep(0.1)
            there = [child for child in there if child.is_running()
                     and child.status() != psutil.STATUS_ZOMBIE]
        return there


@pytest.mark.slow
def test_a_driver_killed_alone_leaves_no_worker(cache):
    driver = Driver(cache)
    assert len(driver.children) >= 2
    os.kill(driver.process.pid, signal.SIGKILL)
    driver.process.wait()
    assert not driver.left()
    kept = len(driver.kept())
    time.sleep(2)
    assert len(driver.kept()) == kept


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["the driver", "all of them, as a terminal does"])
def test_ctrl_c(cache, whom):
    driver = Driver(cache)
    how = os.kill if whom == "the driver" else os.killpg
    how(driver.process.pid, signal.SIGINT)
    out, err = driver.process.communicate(timeout=60)
    *bar, last = err.strip().splitlines()
    assert driver.process.returncode == 130 and not out, (out, err)
    assert last.startswith("mfdan: stopped; what is finished is kept"), err
    assert "Traceback" not in err and all("folds" in line for line in bar), err
    assert not driver.left()
    before = {path: path.read_bytes() for path in driver.kept()}
    again = Driver(cache)
    os.killpg(again.process.pid, signal.SIGKILL)
    again.process.communicate()
    assert all(path.read_bytes() == body for path, body in before.items())


SLEEPER = """
import sys
from pathlib import Path
from mfdan import cli
from mfdan.core.config import RunConfig
from mfdan.results import reproduce
home, workers = Path(sys.argv[1]), int(sys.argv[2])
run = RunConfig(profile="smoke", out=str(home / "out"), workers=workers)
pages = [reproduce.Page(home / f"{n}.ipynb", home / f"out/{n}.ipynb", "k", n == 2)
         for n in range(3)]
reproduce.reproduce = lambda *_, **__: reproduce.execute_pages(pages, run)
sys.exit(cli.main(["reproduce"]))
"""


@pytest.mark.parametrize("workers, sleeps", [
    pytest.param(1, 1, marks=pytest.mark.slow), (1, 2), pytest.param(2, 1, marks=pytest.mark.slow)],
    ids=["in the driver", "alone", "in a worker"])
def test_ctrl_c_ends_a_notebook_and_its_kernel(tmp_path, workers, sleeps):
    code = f"open({str(tmp_path / 'ready')!r}, 'w').close()\nimport time\ntime.sleep(900)"
    given = nbformat.v4.new_code_cell('corpus = ""\nprofile = ""\nseeds = 1\nout = ""\nfaces = 0',
                                      metadata={"tags": ["parameters"]})
    about = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    for number in range(3):
        cell = nbformat.v4.new_code_cell(code if number == sleeps else "1 + 1")
        nbformat.write(nbformat.v4.new_notebook(cells=[given, cell], metadata=about),
                       tmp_path / f"{number}.ipynb")
    process = started(SLEEPER, str(tmp_path), str(workers))
    while not (tmp_path / "ready").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    kernels = kernels_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    *bar, last = err.strip().splitlines()
    assert process.returncode == 130 and not out, (out, err)
    assert last.startswith("mfdan: stopped; what is finished is kept"), err
    assert all("notebooks" in line or not line.strip() for line in bar), err
    assert kernels and not psutil.wait_procs(kernels, timeout=10)[1]
    assert workers == 2 or (tmp_path / "out/0.key").exists()
    assert not (tmp_path / f"out/{sleeps}.key").exists()


REPRODUCE = """
import sys
from mfdan.cli import main
sys.exit(main(["reproduce", "--profile", "smoke", *sys.argv[1:]]))
"""


class Notebooks(Driver):
    "`reproduce` where all is trained, seen when a notebook is finished and others are at work."

    def __init__(self, out: Path, workers: int, *only: str):
        self.folds, self.out = out, out
        self.process = started(REPRODUCE, "--workers", str(workers), "--out", str(out), "--only",
                               *only)
        while not kernels_of(self.process.pid) or len(self.kept()) < (len(only) > 1):
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        time.sleep(1)
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def kept(self) -> list[Path]: return [*self.out.glob("*/notebooks/*.key")]


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["the driver", "all of them, as a terminal does"])
@pytest.mark.parametrize("workers, only", [
    (1, ROAD), (2, ROAD), (2, ("scaling",))], ids=["one worker", "two workers", "one alone"])
def test_ctrl_c_in_the_middle_of_notebooks(road, tmp_path, monkeypatch, workers, only, whom):
    run, _ = road
    monkeypatch.setenv("MFDAN_CACHE", str(run.folder.parents[1] / "cache"))
    driver = Notebooks(tmp_path / "out", workers, *only)
    how = os.kill if whom == "the driver" else os.killpg
    how(driver.process.pid, signal.SIGINT)
    out, err = driver.process.communicate(timeout=60)
    *bar, last = err.strip().splitlines()
    assert driver.process.returncode == 130 and not out, (out, err)
    assert last.startswith("mfdan: stopped; what is finished is kept"), err
    assert "Traceback" not in err and all("notebooks" in line or "folds" in line or not line.strip()
                                          for line in bar), err
    assert not driver.left()
    before = {path: path.stat().st_mtime_ns for path in driver.kept()}
    if only != ROAD: return
    assert before and len(before) < len(ROAD)
    again = subprocess.run([sys.executable, "-c", REPRODUCE, "--out", str(driver.out), "--only",
                            *ROAD], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert len(driver.kept()) == len(ROAD) and before.items() <= {
        path: path.stat().st_mtime_ns for path in driver.kept()}.items()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["killed", "terminated", "closed by its owner"])
def test_a_scheduler_that_goes_is_said_in_a_line(cache, end):
    distributed = pytest.importorskip("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    parts = [start("dask_scheduler", "--host", address, "--no-dashboard"),
             start("dask_worker", address, "--nthreads", "1", "--no-dashboard")]  # one is enough
    with distributed.Client(address, timeout=60) as client: client.wait_for_workers(1, timeout=60)
    try:
        driver = Driver(cache, "--backend", "dask", "--scheduler", address)
        if end == "closed by its owner":
            distributed.Client(address).shutdown()
        else: os.kill(parts[0].pid, signal.SIGKILL if end == "killed" else signal.SIGTERM)
        out, err = driver.process.communicate(timeout=120)
    finally:
        for part in parts:
            if part.poll() is None: os.killpg(part.pid, signal.SIGKILL)
            part.wait()
    *bar, last = err.strip().splitlines()
    assert driver.process.returncode == 1 and not out, (out, err)
    assert "no Dask scheduler answers" in last and "Finished folds are kept" in last, err
    assert "Traceback" not in err and all("folds" in line for line in bar), err
    assert driver.kept()
