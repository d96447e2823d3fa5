"""Whatever is asked, and whatever breaks: one line that says so, and nothing half done."""
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import layouts
import numpy as np
import pandas as pd
import pytest
import torch

from mfdan import cli
from mfdan.core.config import PrepareConfig, RunConfig, TrainConfig
from mfdan.core.files import stable_hash
from mfdan.core.refuse import Refused
from mfdan.core.terminal import DEFECT
from mfdan.data.planted import planted
from mfdan.network.settings import MFDANConfig
from mfdan.results.catalogue import save
from mfdan.results.certificate import pack, seal
from mfdan.results.study import planted_study
from mfdan.training.audit import FaultError, LeakError
from mfdan.training.loso import run_loso
from mfdan.training.plan import Run, fold_key, plan
from mfdan.training.predictions import audit, load_folds
from mfdan.training.store import keep_fold, read_fold

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
    assert "Traceback" not in out + err and DEFECT not in err, err
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
METHODS = {  # what --method may say
    "no such method": ("ststnett", "nearest: ststnet"), "an empty method": ("", "--method"),
    "a method that draws": ("a\nmfdan: all is well", "--method"),
    "a file that is not there": ("nowhere.py:Mine", "nowhere.py"),
    "a class of a file that is not there": (":Mine", "there is no method"),
}
FIT = {  # what only these commands take
    "a GPU that is not there": (["--device", "cuda"], "cuda"),
    "an unknown device": (["--device", "abacus"], "abacus"),
    "what is no network": (["--method", "linear"], "linear is no network"),
}
FILM = {
    "no second": (["a.mp4", "--seconds", "0"], "seconds"),
    "NaN seconds": (["a.mp4", "--seconds", "nan"], "seconds"),
    "infinite seconds": (["a.mp4", "--seconds", "inf"], "seconds"),
    "no frame": (["a.mp4", "--fps", "0"], "fps"),
    "a wide screen": (["a.mp4", "--width", str(10**9)], "width"),
    "a negative seed": (["a.mp4", "--seed", "-1"], "seed"),
    "a seed of text": (["a.mp4", "--seed", "one"], "seed"),
    "nobody": (["a.mp4", "--subject", "9" * 50], "subject"),
    "another ending": (["a.gif"], "ending"), "an empty name": ([""], "path"),
    "a name that draws": (["\x1b[2J.mp4"], "path"), "a folder that is there": (["."], "exists"),
}
CASES |= {f"{command}: {name}": (command, ["--method", said, *more], about)
          for command, more in (("loso", []), ("prepare", []), ("fit", ["--to", "model"]))
          for name, (said, about) in METHODS.items()}
CASES |= {f"fit: {name}": ("fit", [*more, "--to", "model"], about)
          for name, (more, about) in (RUNS | FIT).items()}
CASES |= {f"film: {name}": ("film", *case) for name, case in FILM.items()}
CASES |= {
    "fit: nowhere to": ("fit", [], "--to"), "fit: to an empty name": ("fit", ["--to", ""], "path"),
    "methods: no such method": ("methods", ["ststnett"], "nearest: ststnet"),
    "choose: of licensed data": ("choose", ["--corpus", "."], "--corpus"),
    "choose: an unknown size": ("choose", ["--size", "huge"], "huge"),
    "choose: no workers": ("choose", ["--workers", "0"], "workers"),
    "recognise: one picture": ("recognise", ["a.png", "--model", "m"], "apex"),
    "clean: what there is not": ("clean", ["--kind", "everything"], "everything"),
    "clean: of tomorrow": ("clean", ["--older", "-1"], "older"),
    "check: nothing": ("check", [""], "path"),
    "check: no protocol": ("check", [".", "--protocol", "none.toml"], "none.toml"),
    "check: no database": ("check", [".", "--database", "none.py"], "none.py"),
    "doctor: more than it is asked": ("doctor", ["all"], "all"),
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


# -- 12: whatever file a user can have ----------------------------------------------------------

CODE = {  # a file of one's own, and what the line is about
    "no Python": ("def", "line 1: SyntaxError"), "of no encoding": (b"\xff\xfe", "SyntaxError"),
    "that divides by zero": ("a = 1\nb = a / 0", "line 2: ZeroDivisionError"),
    "that ends the program": ("raise SystemExit('bye')", "line 1: SystemExit: bye"),
    "that imports what is not here": ("import nothing_here", "No module named 'nothing_here'"),
    "of two lines of complaint": ("raise RuntimeError('a\\nb')", "line 1: RuntimeError: a b"),
    "that defines nothing": ("x = 1", "it"), "that is empty": ("", "it"),
}


@pytest.mark.parametrize("command", ["loso --method", "check . --database", "products"])
@pytest.mark.parametrize("case", CODE)
def test_a_file_of_ones_own_that_fails_is_named_with_its_line(cache, monkeypatch, capsys, command,
                                                              case):
    code, about = CODE[case]
    file = cache.parent / "here/mine.py"
    file.write_bytes(code if isinstance(code, bytes) else code.encode())
    if command == "products":
        if "it" == about: return  # a file that registers no product is no fault
        monkeypatch.setenv("MFDAN_PRODUCTS", str(file))
        status, out, err = ask(capsys, "reproduce", "--help")
        assert status == 1
    else:
        status, out, err = ask(capsys, *command.split(), file)
        assert (status, out) == (2, "")
    assert "mine.py" in one_line(err) and about in err, err
    assert not cache.exists()


def test_a_file_of_ones_own_that_would_hide_a_module(cache, capsys):
    for name in ("json.py", "torch.py", "sys.py"):
        (cache.parent / "here" / name).write_text("x = 1")
        status, _, err = ask(capsys, "fit", "--to", "m", "--method", name)
        assert status == 2 and f"there is a module {name[:-3]!r} already" in one_line(err)


def test_a_choice_that_could_not_be_kept_is_refused_first(cache, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda *_: False)
    status, out, err = ask(capsys, "choose")
    assert (status, out) == (2, "") and "choice.json may not be written" in one_line(err)
    assert untouched(cache.parent)


def test_products_that_are_not_there(cache, monkeypatch, capsys):
    for name in ("/nowhere/mine.py", str(cache.parent)):
        monkeypatch.setenv("MFDAN_PRODUCTS", name)
        for words in (["reproduce", "--help"], ["loso", "table_3"], ["reproduce", "--only", "x"]):
            status, _, err = ask(capsys, *words)
            assert status in (1, 2) and "MFDAN_PRODUCTS names" in one_line(err), err


class Home:
    "Products of made-up clips with their folds, and a certificate of them."

    def __init__(self, folder: Path):
        study = planted_study(folder, subjects=2, databases=("SAMM",))
        save(study, "table_3")
        self.products, self.prepared = study.run.folder, folder / "cache/prepared/0123456789ab"
        shutil.copytree(study.folder, self.prepared)
        for file in self.products.glob("*.json"):
            about = json.loads(file.read_text()) | {"prepared": self.prepared.name}
            file.write_text(json.dumps(about))
        shutil.copytree(study.folds, folder / "cache/folds")
        self.certificate = folder / "certificate.json"
        self.certificate.write_text(json.dumps(pack(study, "salt")))


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Home: return Home(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def home(sound, tmp_path, monkeypatch) -> Path:
    "A copy to be spoilt."
    shutil.copytree(sound.certificate.parent, tmp_path / "home")
    monkeypatch.setenv("MFDAN_CACHE", str(tmp_path / "home/cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


NINE = {  # shapes of a file that should be JSON
    "empty": b"", "a list": b"[1, 2]", "a number": b"7", "a text": b'"mfdan"', "null": b"null",
    "cut short": b'{"root": "quick", "prof', "no UTF-8": b"\xff\xfe\x00{",
    "deep": b"[" * 100_000, "deep inside": b'{"root": ' + b"[" * 100_000,
    "a huge number": b'{"seeds": ' + b"9" * 5000 + b"}", "NaN": b"NaN",
}


def spoil(file: Path, **changes) -> None:
    "Other values in a JSON file; `...` takes one away."
    about = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in about.items() if v is not ...}))


def test_a_sound_home_is_sound(home, capsys):
    status, out, _ = ask(capsys, "verify", home / "quick-smoke")
    assert "table_3: same" in out, out
    assert ask(capsys, "certificate", "--check", home / "certificate.json")[0] == 0


@pytest.mark.parametrize("shape", NINE)
def test_verify_names_a_file_that_cannot_be_read(home, capsys, shape):
    file = home / "quick-smoke/table_3.json"
    file.write_bytes(NINE[shape])
    status, out, err = ask(capsys, "verify", file.parent)
    assert status == 1 and "table_3.json" in out + err, (out, err)
    for line in (out + err).splitlines(): one_line(line)


@pytest.mark.parametrize("changes", [
    {"root": 5}, {"root": None}, {"root": ["quick"]}, {"root": "a\0b"}, {"profile": 7},
    {"profile": ["quick"]}, {"seeds": 3}, {"seeds": None}, {"seeds": {}}, {"prepared": 5},
    {"prepared": "/etc"}, {"prepared": "../../home"}, {"prepared": "a\0b"}, {"prepared": None},
    {"prepared": "x" * 5000}, {"root": ""}, {"root": "x" * 5000}, {"profile": "none"}], ids=str)
def test_verify_and_provenance_of_a_wrong_type(home, capsys, changes):
    spoil(home / "quick-smoke/table_3.json", **changes)
    for command in ("verify", *(["certificate"] if "prepared" not in changes else [])):
        status, out, err = ask(capsys, command, home / "quick-smoke")
        assert status in (1, 3), (out, err)
        for line in (out + err).splitlines(): one_line(line)


@pytest.mark.parametrize("shape", NINE)
def test_a_certificate_that_cannot_be_read(home, capsys, shape):
    (home / "certificate.json").write_bytes(NINE[shape])
    status, out, err = ask(capsys, "certificate", "--check", home / "certificate.json")
    assert status == 1 and "no certificate" in out and not err, (out, err)


ROW = {"clip": "a", "subject": "b", "scope": "SAMM", "seed": 0, "true": "negative",
       "pred": "negative", "prob": [0.5, 0.25, 0.25]}
OTHER = {  # of a certificate
    "no predictions": {"predictions": ...}, "predictions: none": {"predictions": []},
    "predictions: numbers": {"predictions": [1, 2]}, "predictions: a text": {"predictions": "x"},
    "prob: two": {"predictions": [ROW | {"prob": [0.5, 0.5]}]},
    "prob: NaN": {"predictions": [ROW | {"prob": [NAN, 0, 0]}]},
    "prob: texts": {"predictions": [ROW | {"prob": ["0.5", "0.2", "0.3"]}]},
    "pred: no class": {"predictions": [ROW | {"pred": "joy"}]},
    "pred: a list": {"predictions": [ROW | {"pred": ["negative"]}]},
    "pred: not the largest": {"predictions": [ROW | {"pred": "positive"}]},
    "a clip twice": {"predictions": [ROW, ROW]},
    "seed: a text": {"predictions": [ROW | {"seed": "0"}]},
    "scope: null": {"predictions": [ROW | {"scope": None}]},
    "no scope": {"predictions": [{k: v for k, v in ROW.items() if k != "scope"}]},
    "no scores": {"scores": ...}, "scores: a list": {"scores": []},
    "scores: texts": {"scores": {"SAMM": "good"}}, "scores: of nothing": {"scores": {}},
    "leaks: a text": {"folds with leaks": "0"}, "leaks: none said": {"folds with leaks": ...},
    "leaks: true": {"folds with leaks": False}, "no seal": {"sha256": ...},
    "seal: a number": {"sha256": 5}, "what: a list": {"what": []}, "no what": {"what": ...},
    "classes: others": {"classes": ["a", "b", "c"]},
    "a scope that draws": {"predictions": [ROW | {"scope": "\x1b[2J\n"}]},
}


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed anew", "not sealed anew"])
@pytest.mark.parametrize("case", OTHER)
def test_a_certificate_of_another_content(home, capsys, case, sealed):
    file = home / "certificate.json"
    spoil(file, **OTHER[case])
    if sealed and "sha256" not in OTHER[case]:
        content = json.loads(file.read_text())
        content.pop("sha256")
        file.write_text(json.dumps(seal(content)))
    status, out, err = ask(capsys, "certificate", "--check", file)
    assert status == 1 and "NOT SOUND" in out and not err, (out, err)
    for line in out.splitlines(): one_line(line)


def test_no_certificate_is_there(home, capsys):
    for file in ("/nowhere", home, home / "certificate.json/x", home / ("x" * 300)):
        status, out, err = ask(capsys, "certificate", "--check", file)
        assert status == 1 and "Errno" not in out + err and "no certificate" in out, (out, err)


def cut(path): path.write_bytes(path.read_bytes()[:100])


def as_npz(path):
    array = np.load(path)
    with open(path, "wb") as file: np.savez(file, array)


def without(column):
    def spoilt(path):
        table = pd.read_csv(path)
        table.drop(columns=column).to_csv(path, index=False)
    return spoilt


PREPARED = {  # a file of a prepared folder: what happens to it
    "an npz named npy": ("flow.npy", as_npz), "an array cut short": ("flow.npy", cut),
    "an array gone": ("magnified.npy", Path.unlink), "meta cut short": ("meta.json", cut),
    "meta without arrays": ("meta.json", lambda p: spoil(p, arrays=...)),
    "meta without a key": ("meta.json", lambda p: spoil(p, key=...)),
    "meta that is a list": ("meta.json", lambda p: p.write_text("[]")),
    "clips without subjects": ("clips.csv", without("subject")),
    "clips without emotions": ("clips.csv", without("emotion")),
    "clips that are empty": ("clips.csv", lambda p: p.write_bytes(b"")),
    "clips gone": ("clips.csv", Path.unlink), "problems gone": ("problems.csv", Path.unlink),
    "clips that are a folder": ("clips.csv", lambda p: [p.unlink(), p.mkdir()]),
}


@pytest.mark.parametrize("case", PREPARED)
def test_a_prepared_folder_that_is_spoilt(home, capsys, case):
    name, spoilt = PREPARED[case]
    spoilt(home / "cache/prepared/0123456789ab" / name)
    status, out, err = ask(capsys, "verify", home / "quick-smoke")
    assert status == 1 and name in out + err, (out, err)
    status, out, err = ask(capsys, "loso", "--profile", "smoke", "--workers", "1", "--prepared",
                           home / "cache/prepared/0123456789ab")
    assert name == "problems.csv" or status == 1 and name in one_line(err), (out, err)


FOLDS = {"without a curve": lambda r: {k: v for k, v in r.items() if k != "curve"},
         "an empty curve": lambda r: r | {"curve": []}, "a list": lambda r: [r],
         "other numbers": lambda r: r | {"prob": [[0.1] * 3 for _ in r["prob"]]},
         "other classes": lambda r: r | {"classes": ["yes", "no", "perhaps"]},
         "no statistics": lambda r: r | {"statistics": {}}}


@pytest.mark.parametrize("case", FOLDS)
def test_a_fold_that_is_spoilt(home, capsys, case):
    fold = sorted((home / "cache/folds").glob("*.json"))[0]
    record = json.loads(fold.read_text())
    digest = record.pop("digest")
    record = FOLDS[case](record)
    if isinstance(record, dict): record |= {"digest": stable_hash(record, len(digest))}
    fold.write_text(json.dumps(record))
    status, out, err = ask(capsys, "verify", home / "quick-smoke")
    assert status in (1, 3), (out, err)
    for line in (out + err).splitlines(): one_line(line)


# -- 12: what is no leak is not called one ------------------------------------------------------

HEADS = {"pred": ("faulty: ", lambda r: r | {"pred": [*r["pred"][:-1], "joy"]}),
         "true": ("faulty: ", lambda r: r | {"true": r["true"][1:] + r["true"][:1]}),
         "names": ("faulty: ", lambda r: r | {"train_ids": ["SAMM/x/y", *r["train_ids"][1:]]}),
         "seen": ("leak: ", lambda r: r | {"batches": r["batches"] | {
             "seen": r["batches"]["seen"] | {r["clip_ids"][0]: 1}}})}


@pytest.mark.parametrize("case", HEADS)
def test_a_finding_is_headed_by_what_it_is(tmp_path, monkeypatch, case):
    from mfdan.training import cluster
    head, change = HEADS[case]
    whole = cluster.train_fold
    monkeypatch.setattr(cluster, "train_fold", lambda *a, **k: change(whole(*a, **k)))
    made = run_loso(planted(3, 6, size=28), [RUN], tmp_path, workers=1, progress=False)
    assert len(made.failed) == 3
    for line in made.failed: assert one_line(line).startswith(head), line


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    "Honest folds on the disk."
    data, store = planted(3, 6, size=28), tmp_path_factory.mktemp("kept")
    run_loso(data, [RUN], store, workers=1, progress=False)
    return data, store


@pytest.mark.parametrize("case", HEADS)
def test_a_fold_that_is_read_is_called_what_it_is(kept, tmp_path, case):
    (data, store), (head, change) = kept, HEADS[case]
    here = shutil.copytree(store, tmp_path / "folds")
    key = fold_key(data, plan(data, RUN)[0], RUN)
    keep_fold(here, key, change(read_fold(here, key)[0]))
    with pytest.raises(LeakError if head == "leak: " else FaultError) as error:
        load_folds(here, data, RUN)
    assert one_line(error.value).startswith(head)
    assert "leak" not in str(error.value) or head == "leak: "
    assert audit(here, data, RUN).findings[0].startswith(head)
    assert f"delete {key}.json in {here}" in str(error.value)  # what is said helps
    (here / f"{key}.json").unlink()
    assert run_loso(data, [RUN], here, workers=1, progress=False).trained == 1
    assert len(load_folds(here, data, RUN)) == 3


# -- 14: terminals, and what stays open ---------------------------------------------------------

DRAWS = "EP\x1b[2J\x07\n\u202e01"  # clears the screen, rings, ends the line, turns the text round


@pytest.fixture
def root(tmp_path) -> Path:
    "Licensed databases of a few clips, and a folder whose name would draw."
    made = layouts.write_all(tmp_path / "caf\u00e9", layouts.few())
    (made / "CASME2/CASME2_RAW_selected/sub01" / DRAWS).mkdir()
    (made / DRAWS).symlink_to("nowhere")
    return made


def test_control_characters_are_shown_escaped(root, capsys):
    status, out, err = ask(capsys, "check", root)
    assert "\\x1b[2J\\x07\\n\\u202e01" in out, out
    for line in (out + err).splitlines(): one_line(line or "-")


def in_ascii(monkeypatch, *argv) -> tuple[int, str]:
    "A command on a terminal that knows ASCII alone."
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    try:
        status = cli.main([str(word) for word in argv])
    except SystemExit as stop:
        status = stop.code
    terminal.flush()
    return status, terminal.buffer.getvalue().decode("ascii")


def test_an_ascii_terminal_fails_no_finished_run(root, home, monkeypatch):
    status, out = in_ascii(monkeypatch, "check", root)
    assert status == 1 and "caf\\xe9" in out
    (home / "quick-smoke").rename(home / "\u8868")
    assert "\\u8868" in in_ascii(monkeypatch, "verify", home / "\u8868")[1]
    status, out = in_ascii(monkeypatch, "loso", "--profile", "smoke", "--workers", "1",
                           "--prepared", home / "cache/prepared/0123456789ab")
    assert status == 0 and "0 trained" in out, out


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_in_ascii(monkeypatch, command):
    assert in_ascii(monkeypatch, *filter(None, [command]), "--help")[0] == 0


def test_a_reader_that_goes_fails_no_finished_run(home, monkeypatch):
    behind, ahead = os.pipe()
    os.close(behind)
    monkeypatch.setattr(sys, "stdout", os.fdopen(ahead, "w"))
    assert cli.main(["certificate", "--check", str(home / "certificate.json")]) == 0


OPEN = """
import gc, os, sys
from mfdan.cli import main
open_before = None
for argv in (line.split("|") for line in sys.argv[1].splitlines()):
    for _ in range(2):
        main(argv)
        gc.collect()
        there = {os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                 if os.path.exists(f"/proc/self/fd/{n}")}
        print("OPEN", *[f for f in there if f.startswith(os.environ["MFDAN_CACHE"])])
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux what is open")
def test_no_file_stays_open(root, home):
    (home / "cache/prepared/0123456789ab/problems.csv").unlink()
    fold = sorted((home / "cache/folds").glob("*.json"))
    fold[0].write_text("{")
    spoilt = layouts.write_all(root.parent / "spoilt", layouts.few())
    sheet = spoilt / "SAMM/SAMM_Micro_FACS_Codes_v2.xlsx"
    sheet.write_bytes(sheet.read_bytes()[:-500])
    with zipfile.ZipFile(spoilt / "CASME2/CASME2-coding-20140508.xlsx", "w") as book:
        book.writestr("[Content_Types].xml", "<Types>")
        book.writestr("xl/workbook.xml", "no XML")
    for frame in (spoilt / "SMIC").rglob("*.bmp"): cut(frame)
    commands = [("check", root), ("check", spoilt), ("verify", home / "quick-smoke"),
                ("verify", home),
                ("certificate", "--check", home / "certificate.json"),
                ("loso", "--profile", "smoke", "--workers", "1", "--prepared",
                 home / "cache/prepared/0123456789ab")]
    asked = "\n".join("|".join(map(str, command)) for command in commands)
    made = subprocess.run([sys.executable, "-W", "error::ResourceWarning", "-c", OPEN, asked],
                          capture_output=True, text=True)
    said = made.stdout + made.stderr
    assert made.returncode == 0 and "ResourceWarning" not in said and "Traceback" not in said, said
    assert {line.strip() for line in made.stdout.splitlines() if "OPEN" in line} == {"OPEN"}, said
