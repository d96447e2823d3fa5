"""Whatever is asked, and whatever breaks: one line that says so, and nothing half done."""
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mfdan import cli
from mfdan.core.config import PrepareConfig, RunConfig, TrainConfig
from mfdan.core.refuse import Refused
from mfdan.network.settings import MFDANConfig
from mfdan.training.loso import run_loso
from mfdan.training.plan import Run

pytestmark = pytest.mark.filterwarnings("ignore:.*holds no digests")
TINY = MFDANConfig(image_size=28, width=12, heads=(1, 2), mergings=0)
RUN = Run("tiny", "composite", TINY, TrainConfig(epochs=1, batch=8))


def one_line(text) -> str:
    "A message to a user is one line, without control characters."
    text = str(text).removesuffix("\n")
    assert text and text.isprintable(), repr(text)
    return text


def ask(capsys, *argv) -> tuple[int, str, str]:
    "A command in this process: its status, what it prints, what it complains."
    capsys.readouterr()
    try:
        status = cli.main([str(word) for word in argv])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err and cli.DEFECT not in err, err
    return status, out, err


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    "A cache that does not exist yet, and a folder that is no checkout."
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MFDAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def untouched(folder: Path) -> bool:
    return [*folder.rglob("*")] == [folder / "here"]


# -- 11: what cannot be is refused before anything starts ---------------------------------------

RUNS = {  # arguments of every command on a corpus; what the line is about
    "a thousand million seeds": (["--seeds", str(10**9)], "seeds"),
    "no seed": (["--seeds", "0"], "seeds"),
    "NaN seeds": (["--seeds", "nan"], "seeds"),
    "a half seed": (["--seeds", "0.5"], "seeds"),
    "seeds of five thousand digits": (["--seeds", "9" * 5000], "seeds"),
    "no workers": (["--workers", "0"], "workers"),
    "minus three workers": (["--workers", "-3"], "workers"),
    "a million workers": (["--workers", "1000000"], "workers"),
    "infinite workers": (["--workers", "inf"], "workers"),
    "an empty corpus": (["--corpus", ""], "corpus"),
    "a blank corpus": (["--corpus", " "], "corpus"),
    "no such corpus": (["--corpus", "/nowhere/at/all"], "corpus"),
    "a corpus with a NUL": (["--corpus", "a\0b"], "corpus"),
    "a corpus with an escape": (["--corpus", "\x1b[2Ja"], "corpus"),
    "no such profile": (["--profile", "fast"], "profile"),
    "an empty out": (["--out", ""], "out"),
    "an out with a line end": (["--out", "a\nb"], "out"),
    "an unknown option": (["--seed=1"], "--seed"),
}
LOSO = {
    "a GPU that is not there": (["--device", "cuda"], "cuda"),
    "the hundredth GPU": (["--device", "cuda:99"], "cuda:99"),
    "an unknown device": (["--device", "abacus"], "abacus"),
    "a device that keeps nothing": (["--device", "meta"], "meta"),
    "an empty device": (["--device", ""], "device"),
    "a graph on a CPU": (["--engine", "graph", "--device", "cpu"], "graph"),
    "an unknown engine": (["--engine", "steam"], "engine"),
    "dask without a scheduler": (["--backend", "dask"], "--scheduler"),
    "a scheduler without dask": (["--scheduler", "tcp://127.0.0.1:9"], "--backend dask"),
    "a scheduler that does not answer":
        (["--backend", "dask", "--scheduler", "tcp://127.0.0.1:9"], "no Dask scheduler answers"),
    "a scheduler that is none":
        (["--backend", "dask", "--scheduler", "hello \n world"], "scheduler"),
    "a scheduler of an unknown kind":
        (["--backend", "dask", "--scheduler", "pigeon://loft"], "scheduler"),
    "an unknown product": (["table_99"], "table_99"),
}
CASES = {f"{command}: {name}": (command, *case) for command in ("prepare", "reproduce", "publish")
         for name, case in RUNS.items()}
CASES |= {f"loso: {name}": ("loso", *case) for name, case in (RUNS | LOSO).items()}
CASES |= {
    "reproduce: an unknown product": ("reproduce", ["--only", "table_99"], "table_99"),
    "corpus: a negative seed": ("corpus", ["quick", "--seed", "-1"], "seed"),
    "corpus: a seed of a hundred digits": ("corpus", ["quick", "--seed", "9" * 100], "seed"),
    "corpus: NaN": ("corpus", ["quick", "--seed", "nan"], "seed"),
    "corpus: an unknown size": ("corpus", ["huge"], "huge"),
    "no command": ("", [], "COMMAND"),
    "an unknown command": ("reproduze", [], "reproduze"),
    "an unknown command that draws": ("\x1b[2J\n", [], "\\x1b"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_is_refused_before_anything_starts(cache, monkeypatch, capsys, case):
    command, more, about = CASES[case]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    from mfdan.training import cluster
    monkeypatch.setattr(cluster.connect, "__defaults__", (0.5,))
    status, out, err = ask(capsys, *filter(None, [command]), *more)
    assert (status, out) == (2, ""), err
    assert about in one_line(err) and len(err) < 1200, err
    assert untouched(cache.parent)


def test_dask_that_is_not_installed(cache, monkeypatch, capsys):
    import importlib.util as finder
    whole = finder.find_spec
    monkeypatch.setattr(finder, "find_spec",
                        lambda name, *more: None if name == "distributed" else whole(name, *more))
    status, _, err = ask(capsys, "loso", "--backend", "dask", "--scheduler", "tcp://127.0.0.1:9")
    assert status == 2 and "pip install 'mfdan[dask]'" in one_line(err) and untouched(cache.parent)


NAN = float("nan")
PYTHON = {
    "lr NaN": lambda: Run("x", "composite", TINY, TrainConfig(lr=NAN)),
    "lr below 0": lambda: Run("x", "composite", TINY, TrainConfig(lr=-1e-3)),
    "lr of text": lambda: Run("x", "composite", TINY, TrainConfig(lr="fast")),
    "weight decay infinite": lambda: Run("x", "composite", TINY, TrainConfig(weight_decay=1e999)),
    "gamma NaN": lambda: Run("x", "composite", TINY, TrainConfig(gamma=NAN)),
    "epochs below 0": lambda: Run("x", "composite", TINY, TrainConfig(epochs=-1)),
    "epochs 1e9": lambda: Run("x", "composite", TINY, TrainConfig(epochs=10**9)),
    "epochs a half": lambda: Run("x", "composite", TINY, TrainConfig(epochs=1.5)),
    "batch 0": lambda: Run("x", "composite", TINY, TrainConfig(batch=0)),
    "seed below 0": lambda: Run("x", "composite", TINY, TrainConfig(seed=-1)),
    "groups 1": lambda: replace(RUN, groups=1),
    "shuffled below 0": lambda: replace(RUN, shuffled=-1),
    "workers 0": lambda: run_loso(None, [], Path("store"), workers=0),
    "workers True": lambda: run_loso(None, [], Path("store"), workers=True),
    "a device": lambda: run_loso(None, [], Path("store"), device="abacus"),
    "an engine": lambda: run_loso(None, [], Path("store"), engine="graph"),
    "a backend": lambda: run_loso(None, [], Path("store"), backend="loft"),
    "every NaN": lambda: run_loso(None, [], Path("store"), every=NAN),
}


@pytest.mark.parametrize("case", PYTHON)
def test_python_refuses_the_same(cache, case):
    with pytest.raises(ValueError) as error: PYTHON[case]()
    one_line(error.value)
    assert untouched(cache.parent)


@pytest.mark.parametrize("config", [
    {"size": 0}, {"size": -56}, {"size": 10**6}, {"size": 56.5}, {"factors": (1, NAN)},
    {"factors": (1, -4)}, {"factors": (1, 1e999)}, {"factors": (1, "4")}], ids=str)
def test_prepare_refuses_absurd_settings(cache, config):
    from mfdan.pixels.prepare import prepare
    with pytest.raises(Refused) as error: prepare(None, PrepareConfig(**config))
    one_line(error.value)
    assert untouched(cache.parent)


def test_a_study_refuses_an_absurd_run(cache):
    from mfdan.results.study import Study
    for run in (RunConfig(seeds=10**9), RunConfig(workers=0), RunConfig(workers=2.5),
                RunConfig(corpus=""), RunConfig(out="")):
        with pytest.raises(Refused) as error: Study(run)
        one_line(error.value)
