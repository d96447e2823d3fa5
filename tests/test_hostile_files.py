"""One bad file never costs everything: it is left out and named, in bounded time and memory."""
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from io import BytesIO
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from layouts import few
from openpyxl import Workbook
from test_silent import ALL, CASME2, SAMM, SMIC, lines, of, one_line

from mfdan.core.config import FitConfig, TrainConfig
from mfdan.core.files import stable_hash
from mfdan.data.check import check_root
from mfdan.data.planted import planted
from mfdan.data.prepared import load_prepared, save_prepared
from mfdan.data.root import read_root
from mfdan.network.settings import MFDANConfig
from mfdan.training.checkpoint import Checkpoint
from mfdan.training.fold import train_fold
from mfdan.training.loso import run_loso
from mfdan.training.plan import Run, fold_key, plan
from mfdan.training.predictions import audit, load_folds
from mfdan.training.store import keep_fold, read_fold
from mfdan.zoo.linear import LinearConfig

SECONDS = 20  # for any of these files, on a machine that has other things to do


@pytest.fixture
def root(tmp_path) -> Path: return layouts.write_all(tmp_path / "copy", few())


@pytest.fixture(autouse=True)
def bounded():
    "No file costs more than some seconds."
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


# -- 10: links, pipes, markers, sheets --------------------------------------------------------

SHEET = {"CASME II": "CASME2/CASME2-coding-20140508.xlsx",
         "SAMM": "SAMM/SAMM_Micro_FACS_Codes_v2.xlsx"}
MARKER = "mfdan-corpus.json"


def instead(path, make):
    "Something else of that name."
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make(path)


def link(to): return lambda path: path.symlink_to(to)


def deep(path, row=1_048_576, column=1):
    book = Workbook()
    for cells in layouts.casme2_rows(few()["CASME II"]): book.active.append(cells)
    book.active.cell(row, column, "far away")
    book.save(path)


def empty_rows(path):
    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    for cells in layouts.casme2_rows(few()["CASME II"]): sheet.append(cells)
    for _ in range(300_000): sheet.append([None])
    book.save(path)


def long_csv(path):
    path.unlink()
    path.with_suffix(".csv").write_bytes(b"\n" * 19_000_000)


def huge(path):
    path.touch()
    os.truncate(path, 2**40)  # sparse


HOSTILE = {  # what is planted; the name in a line; clips that are lost
    "a link to itself, beside everything": (
        lambda r: (r / "loop").symlink_to("loop"), "loop", set()),
    "a link to nowhere, beside everything": (
        lambda r: (r / "gone").symlink_to("/nowhere/at/all"), "gone", set()),
    "a link to /": (lambda r: (r / "slash").symlink_to("/"), "slash", set()),
    "a link to the root": (lambda r: (r / "CASME2/again").symlink_to(r), "again", set()),
    "a link to the folder above": (lambda r: (r / "SMIC/up").symlink_to(".."), "up", set()),
    "a subject that is a link to itself": (
        lambda r: instead(r / CASME2 / "sub02", link("sub02")), "sub02", of("CASME II/sub02")),
    "a subject that is a link to nowhere": (
        lambda r: instead(r / SAMM / "007", link("gone")), "007", of("SAMM/007")),
    "a subject that is a link to /": (
        lambda r: instead(r / SMIC / "s2", link("/")), "s2", of("SMIC-HS/s02")),
    "one more subject, a link to all of them": (
        lambda r: (r / SMIC / "s9").symlink_to("."), "s9", set()),
    "a clip that is a link to itself": (
        lambda r: instead(r / CASME2 / "sub02/EP01_11f", link("EP01_11f")), "EP01_11f",
        of("CASME II/sub02")),
    "a clip that is a link to /": (
        lambda r: instead(r / SAMM / "007/007_5_3", link("/")), "007_5_3", of("SAMM/007")),
    "a frame that is a link to itself": (
        lambda r: [instead(f, link(f.name)) for f in (r / SAMM / "007/007_5_3").iterdir()],
        "007_5_3", of("SAMM/007")),
    "a frame that is a pipe": (
        lambda r: [instead(f, os.mkfifo) for f in (r / SAMM / "007/007_5_3").iterdir()],
        "007_5_3", of("SAMM/007")),
    "an annotation that is a pipe": (
        lambda r: instead(r / SHEET["SAMM"], os.mkfifo), SHEET["SAMM"], of("SAMM")),
    "an annotation that is a folder": (
        lambda r: instead(r / SHEET["SAMM"], Path.mkdir), SHEET["SAMM"], of("SAMM")),
    "an annotation that is a link to itself": (
        lambda r: instead(r / SHEET["SAMM"], link(Path(SHEET["SAMM"]).name)), SHEET["SAMM"],
        of("SAMM")),
    "an annotation that is a link to nowhere": (
        lambda r: instead(r / SHEET["CASME II"], link("gone")), SHEET["CASME II"], of("CASME")),
    "an annotation of a terabyte": (
        lambda r: instead(r / SHEET["SAMM"], huge), SHEET["SAMM"], of("SAMM")),
    "a cell in the last row": (
        lambda r: instead(r / SHEET["CASME II"], deep), SHEET["CASME II"], of("CASME")),
    "a cell in the last column": (
        lambda r: instead(r / SHEET["CASME II"], lambda p: deep(p, 300, 16384)), "", set()),
    "300 000 empty rows": (
        lambda r: instead(r / SHEET["CASME II"], empty_rows), SHEET["CASME II"], of("CASME")),
    "19 000 000 empty lines": (
        lambda r: long_csv(r / SHEET["SAMM"]), "SAMM_Micro", of("SAMM")),
    "a marker of a terabyte": (lambda r: huge(r / "SAMM" / MARKER), MARKER, of("SAMM")),
    "a marker without end": (
        lambda r: (r / "SAMM" / MARKER).write_text("[" * 90_000), MARKER, of("SAMM")),
    "a marker of no encoding": (
        lambda r: (r / "SAMM" / MARKER).write_bytes(b"\xff\xfe\xff"), MARKER, of("SAMM")),
    "a marker that is a list": (
        lambda r: (r / "SAMM" / MARKER).write_text("[1]"), MARKER, of("SAMM")),
    "a marker that is a text": (
        lambda r: (r / "SAMM" / MARKER).write_text('"corpus"'), MARKER, of("SAMM")),
    "a marker that names a list": (
        lambda r: (r / "SAMM" / MARKER).write_text('{"corpus": ["quick"]}'), MARKER, of("SAMM")),
    "a marker that is a pipe": (lambda r: os.mkfifo(r / "SAMM" / MARKER), "", set()),
    "a name of control characters": (
        lambda r: (r / CASME2 / "sub01/EP\x1b[31m\n01").mkdir(), "EP\\x1b[31m\\n01", set()),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_named_and_the_rest_is_read(root, case):
    plant, named, lost = HOSTILE[case]
    plant(root)
    reading = read_root(root)
    assert {*reading.clips.clip_id} == ALL - lost, lines(reading)
    assert named in lines(reading) and (not lost or len(reading.problems))
    for row in reading.problems.itertuples(index=False):
        for text in row: assert "\n" not in text and "\x1b" not in text


def test_an_unreadable_marker_costs_its_database(root, monkeypatch):
    marker, real = root / "SAMM" / MARKER, Path.read_bytes
    marker.write_text('{"corpus": "quick"}')

    def denied(path):
        if path == marker: raise PermissionError(13, "Permission denied", str(path))
        return real(path)
    monkeypatch.setattr(Path, "read_bytes", denied)
    monkeypatch.setattr(Path, "read_text", lambda path, **_: denied(path).decode())
    reading = read_root(root)
    assert {*reading.clips.clip_id} == ALL - of("SAMM") and MARKER in lines(reading)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
from mfdan.data.root import read_root
print(len(read_root(sys.argv[1]).clips))
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["a cell in the last row", "300 000 empty rows",
                                  "19 000 000 empty lines", "a marker of a terabyte"])
def test_the_memory_is_bounded_too(root, case):
    HOSTILE[case][0](root)
    ended = subprocess.run([sys.executable, "-c", LIMITED, str(root), str(1 << 30)], timeout=120,
                           capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and ended.stdout.strip() == "6", ended.stderr[-500:]


INDEXES = {
    "numbers for names": [("smic", 7, 559741), ("smic", None, None)],
    "nothing": [], "short rows": [("smic",), ("smic", "s1_ne_01")],
    "a number for a database": [(3, "s1_ne_01", 559741)],
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_odd_index_of_apexes_costs_no_clip(root, tmp_path, case):
    rows = [("data", "clip", "apex_frame"), *INDEXES[case]]
    index = layouts.workbook(tmp_path / "index.xlsx", rows)
    assert {*read_root(root, index).clips.clip_id} == ALL


# -- 12: folders and folds that are not what they seem ----------------------------------------

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_prepared(planted(4, 6, size=28), tmp_path_factory.mktemp("prepared") / "a").folder


SHAPES = {"a list": "[]", "nothing": "null", "a text": '"x"', "a number": "3", "empty": "{}",
          "cut": "{", "no JSON": "<html>", "nested without end": "[" * 100_000,
          "not a number": "NaN", "of no bytes": ""}


def without(name):
    def plant(folder):
        meta = json.loads((folder / "meta.json").read_text())
        del meta[name]
        (folder / "meta.json").write_text(json.dumps(meta))
    return plant


def with_arrays(arrays):
    def plant(folder):
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps(meta | {"arrays": arrays}))
    return plant


def archive(folder):
    np.savez(folder / "x.npz", flow=np.load(folder / "flow.npy"))
    (folder / "x.npz").rename(folder / "flow.npy")


def objects(folder):
    np.save(folder / "flow.npy", np.array([{}] * 24), allow_pickle=True)


def header(shape):
    def plant(folder):
        with open(folder / "flow.npy", "wb") as out:
            np.lib.format.write_array_header_1_0(
                out, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return plant


def no_column(name):
    def plant(folder):
        rows = [line.split(",") for line in (folder / "clips.csv").read_text().splitlines()]
        place = rows[0].index(name)
        text = "\n".join(",".join(row[:place] + row[place + 1:]) for row in rows)
        (folder / "clips.csv").write_text(text)
        without("digests")(folder)
    return plant


def text_of(name, content):
    def plant(folder):
        (folder / name).write_bytes(content)
    return plant


FOLDERS = {
    **{f"meta.json is {name}": text_of("meta.json", text.encode())
       for name, text in SHAPES.items()},
    **{f"meta.json without {name}": without(name) for name in ("arrays", "key", "size", "factors")},
    **{f"arrays are {value!r}": with_arrays(value) for value in (
        [], None, "flow", {}, {"flow": None}, {"flow": {"shape": "x"}}, {"/etc/passwd": {}})},
    "an archive named as an array": archive, "an array of objects": objects,
    "an array larger than all": header((2**40, 3, 28, 28)),
    "an array of negative shape": header((-1, 3)), "an array of endless shape": header((10**30,)),
    "an array that is a pipe": lambda f: instead(f / "flow.npy", os.mkfifo),
    "an array that is a folder": lambda f: instead(f / "flow.npy", Path.mkdir),
    "an array that is a link to itself": lambda f: instead(f / "flow.npy", link("flow.npy")),
    "no array": lambda f: (f / "flow.npy").unlink(),
    "no table": lambda f: (f / "clips.csv").unlink(),
    "a table that is a pipe": lambda f: instead(f / "clips.csv", os.mkfifo),
    "a table of nothing": text_of("clips.csv", b""),
    "a table of one line": text_of("clips.csv", b"clip_id,subject\n"),
    "a table of no encoding": text_of("clips.csv", b"clip_id\n\xff\xfe\n"),
    "a table of zeros": text_of("clips.csv", bytes(1000)),
    "a ragged table": text_of("clips.csv", b"clip_id,onset\na,1,2\nb\n"),
    **{f"a table without {name}": no_column(name) for name in (
        "clip_id", "database", "subject", "emotion", "onset", "apex", "offset")},
}


@pytest.mark.filterwarnings("ignore:.*holds no digests")
@pytest.mark.parametrize("case", FOLDERS)
def test_a_prepared_folder_that_is_none_is_one_line(whole, tmp_path, case):
    from mfdan.data.prepared import check_prepared

    folder = shutil.copytree(whole, tmp_path / "a")
    FOLDERS[case](folder)
    with pytest.raises((ValueError, OSError)) as error: load_prepared(folder)
    assert str(folder) in one_line(error.value)
    for line in check_prepared(folder): one_line(line)
    assert check_prepared(folder)


def test_no_file_handle_stays_open(whole, root, tmp_path):
    folders = [shutil.copytree(whole, tmp_path / str(number)) for number in range(len(FOLDERS))]
    for folder, plant in zip(folders, FOLDERS.values()): plant(folder)
    (root / SMIC / "s1/micro/negative/s1_ne_01/reg_image559740.bmp").write_bytes(b"BM" + bytes(60))
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            warnings.filterwarnings("ignore", ".*holds no digests")
            check_root(root)
            for folder in folders:
                with pytest.raises((ValueError, OSError)): load_prepared(folder)
        assert len(os.listdir("/proc/self/fd")) <= before
    finally: gc.enable()


# folds

RUN = Run("linear", "composite", LinearConfig(), FitConfig())


@pytest.fixture(scope="module")
def data(): return planted(4, 6, size=28)


@pytest.fixture(scope="module")
def store(data, tmp_path_factory):
    store = tmp_path_factory.mktemp("folds")
    assert run_loso(data, [RUN], store, workers=1, progress=False).trained == 4
    return store


def lacks(field): return lambda record: record.pop(field)


def holds(field, value): return lambda record: record.update({field: value})


RECORDS = {
    **{f"without {field}": lacks(field) for field in (
        "curve", "prob", "true", "pred", "clip_ids", "train_ids", "classes", "batches",
        "statistics", "seconds", "scope", "held_out", "train", "seed")},
    "a curve of texts": holds("curve", ["a"]), "an empty curve": holds("curve", []),
    "a ragged curve": holds("curve", [[[1.0, 2.0], [1.0]]]),
    "a curve of None": holds("curve", [None]),
    "probabilities of one class": holds("prob", [[1.0]]), "no clips": holds("clip_ids", []),
    "numbers for clips": holds("clip_ids", [1, 2, 3, 4, 5, 6]),
    "batches of nothing": holds("batches", {}), "statistics of nothing": holds("statistics", {}),
    "seen by text": lambda record: record["batches"].update(seen={"a": "b"}),
    "one prediction too few": lambda record: record["pred"].pop(),
    "classes that are numbers": holds("classes", [0, 1, 2]),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_fold_that_fits_its_digest_and_is_none_is_trained_anew(data, store, tmp_path, case):
    here = shutil.copytree(store, tmp_path / "folds")
    key = fold_key(data, plan(data, RUN)[0], RUN)
    record, _ = read_fold(here, key)
    del record["key"]
    RECORDS[case](record)
    keep_fold(here, key, {"scope": "", "held_out": ""} | record)
    raw = json.loads((here / f"{key}.json").read_text())
    for field in ("scope", "held_out"):
        if field not in record: raw.pop(field)
    raw["digest"] = stable_hash({k: v for k, v in raw.items() if k != "digest"}, 64)
    (here / f"{key}.json").write_text(json.dumps(raw))
    assert "trained again" in one_line(read_fold(here, key)[1])
    assert "trained again" in audit(here, data, RUN).findings[0]
    with pytest.raises(FileNotFoundError, match="1 of 4 folds have no result") as error:
        load_folds(here, data, RUN)
    one_line(error.value)
    made = run_loso(data, [RUN], here, workers=1, progress=False)
    assert (made.trained, made.reused) == (1, 3) and key in one_line(made.notes[0])
    load_folds(here, data, RUN)


@pytest.mark.parametrize("case", SHAPES)
def test_a_fold_of_any_other_shape_is_trained_anew(data, store, tmp_path, case):
    here = shutil.copytree(store, tmp_path / "folds")
    key = fold_key(data, plan(data, RUN)[0], RUN)
    (here / f"{key}.json").write_text(SHAPES[case])
    assert one_line(read_fold(here, key)[1]) == f"{key}.json is torn; its fold is trained again"


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, link("/nowhere")],
                         ids=["pipe", "folder", "link"])
def test_a_fold_that_is_no_file_is_said(tmp_path, make):
    make(tmp_path / "abc.json")
    record, problem = read_fold(tmp_path, "abc")
    assert record is None and ("trained again" in problem or make.__name__ == "<lambda>")


TINY = MFDANConfig(image_size=28, width=12, heads=(1, 2), mergings=0)
STATES = {
    "a list": [], "a text": "x", "a number": 3, "nothing but its key": {"key": "a"},
    "no network": {"key": "a", "loss": [0.5], "curve": [torch.zeros(6, 3)], "network": {},
                   "optimizer": {}, "random": torch.get_rng_state(), "random_cuda": None},
    "another network": {"key": "a", "loss": [0.5], "curve": [torch.zeros(6, 3)],
                        "network": {"weight": torch.zeros(3)}, "optimizer": {},
                        "random": torch.get_rng_state(), "random_cuda": None},
}


@pytest.fixture(scope="module")
def fresh(data):
    train = TrainConfig(epochs=1, batch=32)
    fold = plan(data, Run("tiny", "composite", TINY, train))[0]
    return fold, train, train_fold(data, fold, TINY, train)["weights"]


@pytest.mark.parametrize("case", [*STATES, "no bytes", "text"])
def test_a_state_with_a_valid_hash_and_other_content(data, fresh, tmp_path, case):
    fold, train, weights = fresh
    waits, body = Checkpoint(tmp_path / "a.part", "a", every=1e9), BytesIO()
    if case in STATES: torch.save(STATES[case], body)
    if case == "text": body.write(b"not what torch writes")
    body = body.getvalue()
    waits.path.write_bytes(hashlib.sha256(body).hexdigest().encode() + body)
    made = train_fold(data, fold, TINY, train, checkpoint=waits)
    assert made["weights"] == weights
