"""Licensed faces never get into what git would add, even for an unlucky user."""
import json
import os
import shutil
import subprocess
from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import few

from mfdan import cli
from mfdan.core.config import RunConfig
from mfdan.core.files import MARKER
from mfdan.corpus import write
from mfdan.corpus.face import VERSION
from mfdan.data.check import check_root
from mfdan.data.protocols import with_labels
from mfdan.data.root import read_root
from mfdan.pixels.prepare import prepare
from mfdan.results.certificate import certificate
from mfdan.results.report import write_report
from mfdan.results.reproduce import Page, execute, publish
from mfdan.results.road import note_stages
from mfdan.results.save import product_folder, save_table, seen, stamp
from mfdan.results.study import Study, planted_study, train_rows
from mfdan.results.table import Table

HERE = Path(__file__).resolve().parents[1]


def git(folder: Path, *words: str) -> str:
    "What git says in a folder."
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True,
                          check=True)
    return done.stdout


def repository(folder: Path, ignores: str) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / ".gitignore").write_text(ignores)
    return folder


def added(folder: Path) -> list[str]:
    "What `git add -A` would add."
    return git(folder, "status", "--porcelain", "-uall", "-z").split("\0")[:-1]


def everything(*folders: Path) -> set[str]:
    return {str(path) for folder in folders for path in folder.rglob("*") if ".git" != path.name
            and ".git/" not in str(path)}


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A checkout, a folder outside it, a repository of the user's own, and licensed data."
    checkout = repository(tmp_path / "checkout", (HERE / ".gitignore").read_text())
    (checkout / "settings.ini").write_text("[DEFAULT]\nlib_name = mfdan\n")
    (checkout / "nbs").mkdir()
    (checkout / "paper_figures/synthetic").mkdir(parents=True)
    repository(tmp_path / "own", "kept/\n")
    (tmp_path / "outside").mkdir()
    layouts.write_all(tmp_path / "data", few())
    monkeypatch.setenv("MFDAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(checkout)
    return tmp_path


# -- 1: where licensed products may go ----------------------------------------------------------

def link(path: Path, to: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to, target_is_directory=True)
    return path


REFUSED = {
    "what is published": lambda h: "paper_figures/synthetic",
    "out of local by ..": lambda h: "paper_figures/local/../synthetic",
    "out of local twice": lambda h: "paper_figures/local/a/../../synthetic",
    "the checkout itself": lambda h: ".",
    "a folder of notebooks": lambda h: "nbs",
    "a folder of ours that git ignores, and a wheel takes": lambda h: "build",
    "out of the checkout and in again": lambda h: "../outside/../checkout/nbs",
    "an absolute path that comes in again": lambda h: h / "outside/../checkout/paper_figures",
    "a link into the checkout": lambda h: link(h / "outside/link", h / "checkout/nbs"),
    "a link to the folder above": lambda h: link(h / "outside/up", h) / "checkout/nbs",
    "a link in local": lambda h: link(h / "checkout/paper_figures/local/a", h / "checkout/nbs"),
    "local, a link to what is published": lambda h: link(
        h / "checkout/paper_figures/local", h / "checkout/paper_figures/synthetic"),
    "a chain of links": lambda h: link(h / "outside/a", link(h / "outside/b", h / "checkout")),
    "somebody's repository": lambda h: h / "own",
    "below a repository, by a link": lambda h: link(h / "outside/own", h / "own") / "deep",
    "out of what a repository ignores": lambda h: h / "own/kept/../open",
}
ALLOWED = {
    "local": lambda h: "paper_figures/local",
    "below local": lambda h: "paper_figures/local/a/../b",
    "outside": lambda h: h / "outside",
    "out and away": lambda h: "../outside/new",
    "a link in the checkout that leads out": lambda h: link(h / "checkout/a", h / "outside"),
    "local, a link to a larger disk": lambda h: link(
        h / "checkout/paper_figures/local", h / "outside"),
    "what somebody's repository ignores": lambda h: h / "own/kept",
}


@pytest.mark.parametrize("case", REFUSED)
def test_no_way_leads_licensed_products_into_what_git_adds(home, capsys, case):
    out = REFUSED[case](home)
    before = everything(home)
    run = RunConfig(corpus=str(home / "data"), out=str(out))
    with pytest.raises(ValueError, match="products of licensed data|git would add"):
        product_folder(run)
    assert cli.main(["reproduce", "--corpus", str(home / "data"), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str((home / "checkout" / out).resolve()) in said
    assert everything(home) == before, "something was made before it was refused"


@pytest.mark.parametrize("case", REFUSED)
def test_from_elsewhere_as_well(home, monkeypatch, case):
    out = (home / "checkout" / REFUSED[case](home))
    monkeypatch.chdir(home / "outside")
    with pytest.raises(ValueError, match="products of licensed data|git would add"):
        product_folder(RunConfig(corpus=str(home / "data"), out=str(out)))


@pytest.mark.parametrize("case", ALLOWED)
def test_what_git_does_not_add_may_hold_them(home, case):
    out = ALLOWED[case](home)
    folder = product_folder(RunConfig(corpus=str(home / "data"), out=str(out)))
    (folder / "face.png").write_text("")
    assert folder.is_dir() and not [name for name in added(home / "checkout") if "face" in name]
    assert not [name for name in added(home / "own") if "face" in name]


def test_the_embedded_corpus_goes_where_it_is_told(home):
    folder = product_folder(RunConfig(out="paper_figures/synthetic"))
    assert folder == home / "checkout/paper_figures/synthetic/quick-quick"


def test_without_git_a_checkout_is_known_by_its_settings(home):
    shutil.rmtree(home / "checkout/.git")
    data = str(home / "data")
    with pytest.raises(ValueError, match="products of licensed data"):
        product_folder(RunConfig(corpus=data, out="nbs"))
    assert product_folder(RunConfig(corpus=data)).is_dir()


WRITERS = {  # everything that writes a product, called as a notebook would
    "a table": lambda run: save_table(Table.of([{"a": 1}]), run, "t", "A table"),
    "a report": lambda run: write_report(run, []),
    "the stages": lambda run: note_stages(run, []),
    "an executed notebook": lambda run: execute(
        Page(HERE / "nbs/paper/table_1.ipynb", run.folder / "notebooks/table_1.ipynb", "k"), run),
}


@pytest.mark.parametrize("case", WRITERS)
def test_every_writer_asks(home, case):
    before = everything(home)
    run = RunConfig(corpus=str(home / "data"), out="paper_figures/local/../synthetic")
    with pytest.raises(ValueError, match="products of licensed data"): WRITERS[case](run)
    assert everything(home) == before


def test_a_certificate_and_its_salt_stay_out_as_well(home):
    folder = home / "checkout/paper_figures/licensed"
    folder.mkdir()
    about = {"root": str(home / "data"), "profile": "smoke", "seeds": [0], "prepared": "k"}
    (folder / "table_1.json").write_text(json.dumps(about))
    before = everything(home)
    with pytest.raises(ValueError, match="products of licensed data"): certificate(folder)
    assert everything(home) == before


@pytest.mark.parametrize("cache", ["cache", "nbs/cache", "../own/cache"])
def test_prepared_faces_stay_out_of_git_too(home, monkeypatch, capsys, cache):
    monkeypatch.setenv("MFDAN_CACHE", str(home / "checkout" / cache))
    data, before = str(home / "data"), everything(home)
    clips = read_root(data).clips
    run = RunConfig(corpus=data, profile="smoke")
    with pytest.raises(ValueError, match="set MFDAN_CACHE"): prepare(clips, run.prepare)
    for name in ("prepare", "loso"):
        assert cli.main([name, "--corpus", data, "--profile", "smoke"]) == 1
        assert "set MFDAN_CACHE" in capsys.readouterr().err
    assert everything(home) == before


def test_folds_of_licensed_clips_stay_out_of_git_too(home):
    from mfdan.results.runs import rows_of_table_3
    run = planted_study(home / "outside/study", 2, databases=("SAMM",)).run
    prepared = home / "outside/study/prepared"
    table = (prepared / "clips.csv").read_text().replace(",planted,", ",licensed,")
    (prepared / "clips.csv").write_text(table)
    meta = json.loads((prepared / "meta.json").read_text())
    del meta["digests"]
    (prepared / "meta.json").write_text(json.dumps(meta))
    study = Study(RunConfig(corpus=str(prepared), profile="smoke", workers=1), prepared,
                  folds=home / "checkout/folds")
    with pytest.warns(UserWarning, match="holds no digests"):
        rows = study.rows(rows_of_table_3)
    with pytest.raises(ValueError, match="git would add|licensed data"): train_rows(study, rows)
    assert not (home / "checkout/folds").exists()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="holds licensed clips"):
        Study(run, prepared).prepared  # noqa: B018


# -- 2: an embedded corpus is known by what it holds ----------------------------------------------

CLIPS = [*{clip.database: clip for clip in write.list_clips("quick", 0)}.values()]


def a_few(size: str, seed: int) -> list: return CLIPS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A cache in which a few clips of the embedded corpus were written."
    cache = tmp_path_factory.mktemp("made") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MFDAN_CACHE", str(cache))
        patch.setattr(write, "list_clips", a_few)
        write.embedded_corpus("quick", workers=1)
    return cache


@pytest.fixture
def written(made, tmp_path, monkeypatch):
    "The corpus of such a cache, in a cache of its own."
    monkeypatch.setenv("MFDAN_CACHE", str(shutil.copytree(made, tmp_path / "cache")))
    monkeypatch.setattr(write, "list_clips", a_few)
    return tmp_path / f"cache/corpora/quick-0-v{VERSION}"


def forged(folder: Path, made=None) -> Path:
    "Licensed data with the marker of an embedded corpus."
    layouts.write_all(folder, made or few())
    shutil.rmtree(folder / ".seeds")
    (folder / MARKER).write_text(json.dumps({"corpus": "quick", "seed": 0, "version": VERSION}))
    return folder


def corpora(root: Path) -> set[str]: return {*read_root(root).clips.corpus}


def test_what_was_written_is_embedded_wherever_it_lies(written, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "list_clips", lambda size, seed: CLIPS[:1])
    assert corpora(written) == {"quick"} == corpora(shutil.copytree(written, tmp_path / "b"))
    assert {*read_root({"SAMM": written / "SAMM"}).clips.corpus} == {"quick"}
    other = tmp_path / "to"
    assert cli.main(["corpus", "quick", "--to", str(other)]) == 0
    assert corpora(other) == {"quick"} and check_root(other).embedded
    (other / ".DS_Store").write_text("a file manager looked at it")
    assert corpora(other) == {"quick"}


def same_size_and_time(file: Path) -> None:
    about, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


CHANGES = {
    "a frame of the same size and time": lambda r: same_size_and_time(next(r.rglob("*.bmp"))),
    "a frame more": lambda r: shutil.copy(f := next(r.rglob("*.bmp")), f.with_stem(f.stem + "9")),
    "a frame less": lambda r: next(r.rglob("*.bmp")).unlink(),
    "licensed data beside it": lambda r: layouts.write_samm(r / "more", few()["SAMM"]),
    "a link to licensed data": lambda r: link(r / "more", r.parent),
    "a frame that is a link": lambda r: (
        f := next(r.rglob("*.bmp")), away := f.rename(r.parent / "f.bmp"), f.symlink_to(away)),
    "another marker": lambda r: (r / MARKER).write_text('{"corpus": "full"}'),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_was_not_written_is_licensed(written, case):
    CHANGES[case](written)
    reading = read_root(written)
    assert {*reading.clips.corpus} == {"licensed"} and "taken as licensed" in reading.summary()
    assert cli.main(["check", str(written)]) == 1
    run = RunConfig(profile="smoke", out=str(written.parent / "out"))
    for ask in (lambda: stamp(run), lambda: seen(run, np.zeros((2, 2, 3), np.uint8)),
                lambda: publish(run), lambda: write_report(run, [])):
        with pytest.raises(ValueError, match="not known to hold the embedded corpus"): ask()


def test_a_marker_on_licensed_data_switches_nothing_off(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MFDAN_CACHE", str(tmp_path / "cache"))
    root = forged(tmp_path / "whole", layouts.fabricated())
    reading = read_root(root)
    assert len(with_labels(reading.clips)) == 442 and {*reading.clips.corpus} == {"licensed"}
    part = forged(tmp_path / "cache/corpora" / f"quick-0-v{VERSION}")
    assert cli.main(["check", str(part)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("NOT complete: 9 of 442") and "taken as licensed" in said


def test_licensed_data_in_the_caches_folder_is_not_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MFDAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(write, "list_clips", lambda size, seed: CLIPS[:1])
    root = forged(tmp_path / "cache/corpora" / f"quick-0-v{VERSION}")
    before = everything(root)
    words = ["reproduce", "--out", str(tmp_path / "out"), "--only", "figure_1", "--workers", "1"]
    assert cli.main(words) == 1
    assert "not known to hold the embedded corpus" in capsys.readouterr().err
    assert everything(root) == before  # somebody's data is not touched
    assert not [*(tmp_path / "out").rglob("*.png")] and not (tmp_path / "cache/prepared").exists()


def test_a_corpus_of_an_older_version_is_compared_once(written, monkeypatch):
    folder = written.parent / "written"
    shutil.rmtree(folder)
    assert corpora(written) == {"licensed"}
    times = {p: p.stat().st_mtime_ns for p in written.rglob("*")}
    assert write.embedded_corpus("quick", workers=1) == written and corpora(written) == {"quick"}
    assert times == {p: p.stat().st_mtime_ns for p in written.rglob("*")}
    monkeypatch.setattr(write, "write_corpus", None)  # not again
    assert write.embedded_corpus("quick") == written
    assert [*written.parent.glob(".*")] == []
