"""A full disk or a place that may not be written: one line, what was kept, what to do."""
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

from mfdan import cli
from mfdan.core import files
from mfdan.core.config import RunConfig
from mfdan.corpus import write
from mfdan.results import reproduce as reproducing
from mfdan.results.certificate import certificate
from mfdan.results.report import write_report
from mfdan.results.reproduce import Page, execute
from mfdan.results.road import note_stages
from mfdan.results.runs import rows_of_table_3
from mfdan.results.save import save_figure, save_table
from mfdan.results.study import planted_study, train_rows
from mfdan.results.table import Table

SPACE = shutil.which("unshare") and subprocess.run(
    ["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0
mounts = pytest.mark.skipif(not SPACE, reason="no mount namespace here")


def mounted(mount: str, *words: str, **told: str) -> subprocess.CompletedProcess:
    "Run `mfdan` where something else is mounted."
    code = "import sys; from mfdan.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", code,
         *words], env=os.environ | told, capture_output=True, text=True, timeout=300, check=False)


def small(folder: Path, size: str) -> str: return f"mount -t tmpfs -o size={size} tmpfs {folder}"


def closed(folder: Path) -> str:
    return f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"


def the_line(said: str) -> str:
    "What `main` says in the end; bars may stand before it."
    (line,) = [line for line in said.splitlines() if line.startswith("mfdan: ")]
    return line


# -- what writes products ---------------------------------------------------------------------

class Refusing:
    "A disk that takes some files, and no more."

    def __init__(self, number: int, room: int = 0): self.number, self.room = number, room

    def __call__(self, file: Path, mode: str = "r", *args, **kwargs):
        if "w" in mode:
            self.room -= 1
            if self.room < 0: raise OSError(self.number, os.strerror(self.number), str(file))
        return open(file, mode, *args, **kwargs)


def a_figure():
    figure, _ = plt.subplots(figsize=(2, 1))
    plt.close(figure)
    return figure


WRITERS = {
    "a table": lambda run: save_table(Table.of([{"a": 1}]), run, "t", "A table"),
    "a figure": lambda run: save_figure(a_figure(), run, "f", "A figure"),
    "a report": lambda run: write_report(run, []),
    "the stages": lambda run: note_stages(run, []),
}
NUMBERS = {errno.ENOSPC: "the disk is full below", errno.EROFS: "may not be written",
           errno.EACCES: "may not be written", errno.EDQUOT: "the disk is full below"}


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
@pytest.mark.parametrize("case", WRITERS)
def test_products_that_cannot_be_written(tmp_path, monkeypatch, case, number):
    monkeypatch.setenv("MFDAN_CACHE", str(tmp_path / "cache"))
    run = RunConfig(profile="smoke", out=str(tmp_path / "out"))
    monkeypatch.setattr(files, "open", Refusing(number), raising=False)
    with pytest.raises(OSError) as error: WRITERS[case](run)
    said = str(error.value)
    assert error.value.errno == number and NUMBERS[number] in said and "\n" not in said
    assert "--out" in said and "finished folds and products are kept" in said
    assert "MFDAN_CACHE" not in said
    assert not [*(tmp_path / "out").rglob(".*")]
    monkeypatch.undo()
    WRITERS[case](run)


def test_a_notebook_that_cannot_be_kept(tmp_path, monkeypatch):
    import papermill

    def full(*_, **__): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(papermill, "execute_notebook", full)
    run = RunConfig(profile="smoke", out=str(tmp_path))
    page = Page(Path(reproducing.__file__), run.folder / "notebooks/a.ipynb", "k")
    with pytest.raises(OSError, match="the disk is full below .*choose another folder with --out"):
        execute(page, run)
    assert not page.up_to_date


def test_a_certificate_that_cannot_be_written(tmp_path, monkeypatch):
    study = planted_study(tmp_path / "study", 2, databases=("SAMM",))
    (tmp_path / "out").mkdir()
    about = {"root": "quick", "profile": "smoke", "seeds": [0], "prepared": study.prepared.key}
    (tmp_path / "out/table_3.json").write_text(json.dumps(about))
    train_rows(study, study.rows(rows_of_table_3))
    monkeypatch.setattr("mfdan.results.certificate.Study", lambda run: study)
    monkeypatch.setattr(files, "open", Refusing(errno.EROFS), raising=False)
    with pytest.raises(OSError, match="may not be written: copy the folder elsewhere; finished"):
        certificate(tmp_path / "out")
    assert [*(tmp_path / "out").iterdir()] == [tmp_path / "out/table_3.json"]
    monkeypatch.undo()
    monkeypatch.setattr("mfdan.results.certificate.Study", lambda run: study)
    assert certificate(tmp_path / "out").exists()


def test_a_run_that_has_everything_writes_nothing(tmp_path, monkeypatch):
    "No log, no sweep: the folds may lie on a read-only disk."
    study = planted_study(tmp_path, 2, databases=("SAMM",))
    rows = study.rows(rows_of_table_3)
    train_rows(study, rows)
    before = {path: path.stat().st_mtime_ns for path in (study.store, *study.store.rglob("*"))}
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: 1 / 0)
    made = train_rows(study, rows)
    assert (made.trained, made.reused) == (0, 2)
    assert before == {path: path.stat().st_mtime_ns
                      for path in (study.store, *study.store.rglob("*"))}


# -- what was published before ----------------------------------------------------------------

@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES], ids=errno.errorcode.get)
def test_a_full_disk_costs_nothing_that_was_published(tmp_path, monkeypatch, number):
    monkeypatch.setenv("MFDAN_CACHE", str(tmp_path / "cache"))
    run = RunConfig(profile="smoke", out=str(tmp_path / "out"))
    save_table(Table.of([{"a": 1}]), run, "table_1", "A table")
    target = tmp_path / "paper_figures/synthetic/quick-smoke"
    target.mkdir(parents=True)
    (target / "old.csv").write_text("kept")
    (tmp_path / "nbs/paper").mkdir(parents=True)
    monkeypatch.setattr(reproducing, "notebook_folder", lambda: tmp_path / "nbs/paper")
    monkeypatch.setattr(reproducing, "verify", lambda folder: type("Sound", (), {"ok": True}))
    monkeypatch.setattr(reproducing, "not_of", lambda run, key: "")
    monkeypatch.setattr(reproducing, "Study", lambda run: type("S", (), {"prepared": type(
        "P", (), {"key": "k"})}))

    def full(*_): raise OSError(number, os.strerror(number))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match="what was published before is kept"):
            reproducing.publish(run)
    assert [path.name for path in target.parent.rglob("*")] == ["quick-smoke", "old.csv"]
    assert {path.name for path in reproducing.publish(run).iterdir()} == {
        f"table_1{ending}" for ending in (".csv", ".md", ".tex", ".json")}


# -- corpora ----------------------------------------------------------------------------------

CLIPS = [clip for clip in write.list_clips("quick", 0) if clip.database == "SAMM"][:1]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_a_corpus_that_does_not_fit_leaves_nothing(tmp_path, monkeypatch, capsys, number, there):
    monkeypatch.setenv("MFDAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(write, "list_clips", lambda size, seed: CLIPS)
    monkeypatch.setattr(write, "write_clip", lambda root, clip: write.write_frames(
        root, clip, {0: np.zeros((9, 9, 3), np.uint8), 4: np.zeros((9, 9, 3), np.uint8)}))
    monkeypatch.setattr(write, "Parallel", lambda n_jobs: list)
    monkeypatch.setattr(write, "delayed", lambda function: function)
    monkeypatch.setattr(write, "open", Refusing(number, 1), raising=False)
    to = tmp_path / "to"
    if there: to.mkdir()
    assert cli.main(["corpus", "quick", "--to", str(to)]) == 1
    said = the_line(capsys.readouterr().err)
    assert NUMBERS[number] in said and "--to" in said and "nothing was kept there" in said
    assert to.exists() == there and not [*tmp_path.rglob("*.jpg")]
    assert cli.main(["corpus", "quick"]) == 1  # into the cache
    said = the_line(capsys.readouterr().err)
    assert NUMBERS[number] in said and "--to" not in said
    assert not [path for path in (tmp_path / "cache/corpora").rglob("*")]


@mounts
@pytest.mark.slow
def test_a_corpus_on_a_disk_that_is_full_and_on_one_that_is_closed(tmp_path):
    "A true disk of 200 kB."
    to = tmp_path / "to"
    to.mkdir()
    done = mounted(small(to, "200k"), "corpus", "quick", "--to", str(to / "a"),
                   MFDAN_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 1, done.stderr
    assert f"the disk is full below {to}/a: make room and start again" in the_line(done.stderr)
    assert not (tmp_path / "cache").exists()
    for words, says in ((["corpus", "quick"], "set MFDAN_CACHE"),
                        (["prepare"], "set MFDAN_CACHE"),
                        (["corpus", "quick", "--to", str(to / "a")], "folder with --to")):
        done = mounted(closed(to), *words, MFDAN_CACHE=str(to / "cache"))
        assert done.returncode == 1 and says in the_line(done.stderr), done.stderr


@mounts
def test_an_output_folder_that_is_closed_is_named_before_anything_is_made(tmp_path):
    (tmp_path / "out").mkdir()
    done = mounted(closed(tmp_path / "out"), "reproduce", "--out", str(tmp_path / "out"),
                   MFDAN_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 1 and "choose another folder with --out" in the_line(done.stderr)
    assert not (tmp_path / "cache").exists()


# -- a whole run ------------------------------------------------------------------------------

@mounts
@pytest.mark.slow
def test_a_complete_run_succeeds_on_a_read_only_cache(road, tmp_path):
    run, _ = road
    cache = run.folder.parents[1] / "cache"
    words = ["--profile", "smoke", "--out", str(tmp_path / "out")]
    for call in (["reproduce", *words, "--only", "table_2", "table_3", "figure_5"],
                 ["prepare", *words], ["loso", *words], ["corpus", "quick"]):
        done = mounted(closed(cache), *call, MFDAN_CACHE=str(cache))
        assert done.returncode == 0, done.stderr
    made = tmp_path / "out/quick-smoke"
    assert (made / "table_3.csv").read_bytes() == (run.folder / "table_3.csv").read_bytes()
    assert (made / "report.html").exists()


@mounts
@pytest.mark.slow
def test_products_on_a_disk_that_is_full(road, tmp_path):
    run, _ = road
    cache, out = run.folder.parents[1] / "cache", tmp_path / "out"
    out.mkdir()
    for size in ("4k", "40k", "100k"):
        done = mounted(small(out, size), "reproduce", "--profile", "smoke", "--out", str(out),
                       "--only", "table_2", "figure_5", MFDAN_CACHE=str(cache))
        assert done.returncode == 1, done.stderr
        assert "the disk is full below" in done.stderr and "Traceback" not in done.stderr
        assert "--out" in done.stderr and "are kept" in done.stderr
