"""Every command, where what it is given or where it runs is not as it should be: one line each."""
import ctypes
import errno
import io
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from layouts import few, write_all

from mfdan import cli
from mfdan.core.files import project_root, write_atomic
from mfdan.core.terminal import DEFECT
from mfdan.results.study import planted_study

ODD = "Größe für mich"
NONE = None  # the command takes no such thing

GONE = {  # a file or a folder that is not there -> the words of each command, its status
    "check": ([["{gone}"], ["."] + ["--database", "{gone}.py"], [".", "--protocol", "{gone}.toml"]],
              {1, 2}),
    "corpus": NONE, "film": NONE,  # they make their folders
    "prepare": ([["--corpus", "{gone}"], ["--method", "{gone}.py:Mine"]], {2}),
    "loso": ([["--corpus", "{gone}"], ["--prepared", "{gone}"], ["--method", "{gone}.py:Mine"],
              ["--protocol", "{gone}.toml"]], {1, 2}),
    "methods": ([["{gone}.py:Mine"]], {2}),
    "choose": NONE,
    "reproduce": ([["--corpus", "{gone}"]], {2}), "publish": ([["--corpus", "{gone}"]], {2}),
    "verify": ([["{gone}"]], {1}),
    "certificate": ([["{gone}"]], {1}),
    "fit": ([["--corpus", "{gone}", "--to", "new"], ["--method", "{gone}.py:Mine", "--to", "new"],
             ["--method", "ststnet", "--nothing", "{gone}", "--to", "new"]], {2}),
    "recognise": ([["{gone}.png", "b.png"], ["{gone}.png", "b.png", "--model", "{gone}"]], {1}),
    "video": ([["{gone}.mp4", "--model", "none"], ["{gone}.mp4", "--model", "{gone}"]], {1}),
    "spot": ([["{gone}"]], {1}),
    "doctor": NONE, "clean": NONE, "completion": NONE,
}
CLOSED = {  # {closed} is a folder that may be neither read nor written
    "check": ([["{closed}"]], {1}),
    "corpus": ([["quick", "--to", "{closed}/new"]], {1}),
    "film": ([["{closed}/a.mp4", "--seconds", "0.2", "--fps", "10", "--width", "64"]], {1, 2}),
    "prepare": ([["--corpus", "{closed}"]], {1}),
    "loso": ([["--prepared", "{closed}"], ["--protocol", "{closed}/mine.toml"]], {1, 2}),
    "methods": ([["{closed}/mine.py:Mine"]], {2}),
    "choose": NONE,  # it reads and writes the cache alone
    "reproduce": ([["--corpus", "{closed}"], ["--out", "{closed}/out"]], {1}),
    "publish": ([["--out", "{closed}"]], {1, 2}),
    "verify": ([["{closed}"]], {1}),
    "certificate": ([["{closed}"]], {1}),
    "fit": ([["--method", "ststnet", "--to", "{closed}/new"],
             ["--method", "ststnet", "--nothing", "{closed}", "--to", "new"]], {1, 2}),
    "recognise": ([["{closed}/a.png", "b.png"], ["a.png", "b.png", "--model", "{closed}"]], {1}),
    "video": ([["{closed}/a.mp4", "--model", "none"], ["{closed}", "--model", "none"],
               ["a.mp4", "--model", "{closed}"]], {1}),
    "spot": ([["{closed}"]], {1}),
    "doctor": ([[]], {1}), "clean": ([["--yes"]], {0, 1}),  # of a cache that lies in there
    "completion": NONE,
}


def calls(table):
    return [pytest.param(name, words, status, id=f"{name} {' '.join(words)}")
            for name, (ways, status) in ((n, w) for n, w in table.items() if w) for words in ways]


@pytest.mark.parametrize("table", [GONE, CLOSED], ids=["gone", "closed"])
def test_every_command_is_in_the_table(table): assert [*table] == [*cli.COMMANDS]


@pytest.fixture
def home(tmp_path, monkeypatch):
    "Blanks and umlauts in every path; a cache that is not there."
    made = tmp_path / ODD
    (made / "here").mkdir(parents=True)
    monkeypatch.chdir(made / "here")
    monkeypatch.setenv("MFDAN_CACHE", str(made / "cache"))
    return made


def status_of(name, words) -> int:
    try:
        return cli.main([name, *words])
    except SystemExit as stop:
        return stop.code


def one_line(err: str) -> None:
    assert err.startswith("mfdan") and err.count("\n") == 1 and err.endswith("\n"), err
    assert DEFECT not in err and "Errno" not in err and len(err) < 1200, err


OLDER = ("corpora/quick-0-v1/mfdan-corpus.json", "prepared/01234567/meta.json",
         "parts/flow-0123456789ab.npz", "folds/0123456789ab.json", "thesis.tex")


def write_older(cache: Path) -> dict[Path, bytes]:
    "What an older version, and somebody else, may have left in a cache."
    for name in OLDER:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text(f"of {name}")
    return contents(cache)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("coding", ["utf-8", "ascii"])
@pytest.mark.parametrize("name, words, status", calls(GONE))
def test_a_missing_file_is_a_line(home, monkeypatch, name, words, status, coding):
    "Whatever the terminal can show, and with a cache of an older version, which is left alone."
    before = write_older(home / "cache")
    terminal = [io.TextIOWrapper(io.BytesIO(), encoding=coding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", terminal[0])
    monkeypatch.setattr(sys, "stderr", terminal[1])
    got = status_of(name, [word.format(gone=home / "nicht da") for word in words])
    for stream in terminal: stream.flush()
    out, err = (stream.buffer.getvalue().decode(coding) for stream in terminal)
    assert got in status, err
    one_line(err)
    assert out == "" and "nicht da" in err and contents(home) == before


@pytest.mark.parametrize("name, words, status", calls(GONE))
def test_nobody_reads(home, monkeypatch, name, words, status):
    "Neither what is printed nor what is complained; the status is the same."
    behind, ahead = os.pipe()
    os.close(behind)
    pipe = os.fdopen(ahead, "w")
    monkeypatch.setattr(sys, "stdout", pipe)
    monkeypatch.setattr(sys, "stderr", pipe)
    assert status_of(name, [word.format(gone=home / "nicht da") for word in words]) in status


OUTPUTS = {  # what standard output may be in place of a terminal -> the status
    "a pipe that nobody reads": ("| true", 0), "a full disk": ("> /dev/full", 1),
    "nothing at all": (">&- <&-", 0)}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("where", OUTPUTS)
@pytest.mark.parametrize("words", ["completion bash", "clean"])
def test_a_terminal_that_is_none(home, where, words):
    "To the very end of the process, where Python flushes what is left."
    how, status = OUTPUTS[where]
    code = "import sys; from mfdan.cli import main; sys.exit(main(sys.argv[1:]))"
    shell = ["bash", "-o", "pipefail", "-c", f'"$@" {how}', "bash"]
    done = subprocess.run([*shell, sys.executable, "-c", code, *words.split()], check=False,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == status and done.stdout == "", done
    if status:
        one_line(done.stderr)
    else:
        assert done.stderr == ""


CAPSET, ABOVE_PERMISSIONS = 126, 0b110  # of x86-64 Linux; CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def as_anybody(action):
    "What an action returns where permissions count, though root runs the tests."
    kept = []

    def run():
        if os.geteuid() == 0: forget_privileges()
        kept.append(action())
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return kept[0]


def forget_privileges() -> None:
    "Of this thread alone, for good."
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    for k in range(3): data[k] &= ~ABOVE_PERMISSIONS
    assert libc.capset(header, data) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for fewer privileges")
@pytest.mark.parametrize("name, words, status", calls(CLOSED))
def test_a_folder_without_permission_is_a_line(home, monkeypatch, capsys, name, words, status):
    closed = home / "closed"
    closed.mkdir(mode=0)
    if name in ("doctor", "clean"): monkeypatch.setenv("MFDAN_CACHE", str(closed / "a/cache"))
    if name == "doctor": monkeypatch.setattr("mfdan.data.effort.speeds", lambda: {"a core": 100.0})
    asked = [word.format(closed=closed) for word in words]
    got = as_anybody(lambda: status_of(name, asked))
    out, err = capsys.readouterr()
    assert got in status, err
    if name == "doctor":
        assert "to be mended: cache" in out and err == "", out
    elif name == "clean":
        assert err == "" or out == "", out + err
    else:
        one_line(out + err)
    assert not [*closed.iterdir()] and not [path for path in home.rglob("*") if path.is_file()]


CLOSED_CACHE = {  # it may be neither read nor written; what must be kept there
    "prepare": "", "loso": "--prepared {study} --profile smoke --method majority", "choose": "",
    "corpus": "quick", "reproduce": "--profile smoke --only table_3 --out {out}",
    "fit": "--method ststnet --profile smoke --to {out}"}


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for fewer privileges")
@pytest.mark.parametrize("name", CLOSED_CACHE)
def test_a_cache_without_permission_is_a_line(home, monkeypatch, capsys, name):
    study = planted_study(home / "study", 2, databases=("SAMM",))
    closed, before = home / "closed", contents(home)
    closed.mkdir(mode=0)
    monkeypatch.setenv("MFDAN_CACHE", str(closed / "cache"))
    words = [word.format(study=study.prepared.folder, out=home / "out")
             for word in CLOSED_CACHE[name].split()]
    assert as_anybody(lambda: status_of(name, words)) == 1
    out, err = capsys.readouterr()
    one_line(out + err)
    assert "set MFDAN_CACHE to a folder of your own" in err and contents(home) == before
    assert not [*closed.iterdir()]


@pytest.mark.parametrize("disk", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=os.strerror)
def test_a_root_is_checked_whatever_the_disk_is_like(home, monkeypatch, capsys, disk):
    "Nothing is written, so the same is said."
    def refuse(*args): raise OSError(disk, os.strerror(disk))
    write_all(home / "data", few())
    said = []
    for closed in (False, True):
        if closed:
            for name in ("replace", "mkdir", "rename"): monkeypatch.setattr(os, name, refuse)
        status, (out, err) = status_of("check", [str(home / "data")]), capsys.readouterr()
        assert status == 1 and "9 of 442 clips" in out and err == ""
        said.append(re.sub(r"[\d.]+", "", out).split())  # two looks do not take the same time
    assert said[0] == said[1]


SHORT = ["--seconds", "1", "--fps", "10", "--width", "96"]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    "A folder with a film."
    made = tmp_path_factory.mktemp("films")
    assert cli.main(["film", str(made / "a"), *SHORT]) == 0
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for fewer privileges")
@pytest.mark.parametrize("words", ["video {films}/a --model none --fps 10 --out {closed}/new",
                                   "spot {films} --out {closed}/new"])
def test_a_closed_place_for_what_was_spotted_is_a_line(home, films, capsys, words):
    closed = home / "closed"
    closed.mkdir(mode=0)
    name, *asked = [word.format(films=films, closed=closed) for word in words.split()]
    assert as_anybody(lambda: status_of(name, asked)) == 1
    out, err = capsys.readouterr()
    one_line(out + err)
    assert "with --out" in err and not [*closed.iterdir()]


# -- two runs at once ---------------------------------------------------------------------------


def meanwhile(monkeypatch, module, name: str, other, after: int = 0):
    "After so many calls of a function another run is made, whole, before the next."
    real, waiting = getattr(module, name), [lambda: None] * after + [other]

    def first_the_other(*args, **how):
        if waiting: waiting.pop(0)()
        return real(*args, **how)
    monkeypatch.setattr(module, name, first_the_other)
    return waiting


@pytest.mark.parametrize("after", [0, 1], ids=["the claim", "a window"])
@pytest.mark.parametrize("words", ["video {films}/a --model none --fps 10 --out {out}",
                                   "spot {films} --out {out}"])
def test_two_that_watch_the_same_at_once_find_the_same(
        home, films, monkeypatch, capsys, words, after):
    "The other one begins while something is being written."
    from mfdan.core import files

    def run(out):
        name, *asked = [word.format(films=films, out=home / out) for word in words.split()]
        return status_of(name, asked)
    assert run("alone") == 0
    other = []
    waiting = meanwhile(monkeypatch, files.os, "replace", lambda: other.append(run("both")), after)
    assert run("both") == 0 and other == [0] and not waiting, capsys.readouterr().err
    alone, both = ({str(path.relative_to(home / out)): path.read_bytes()
                    for path in (home / out).rglob("*") if path.is_file()}
                   for out in ("alone", "both"))
    assert alone == both and len(alone) > 3


def test_a_model_that_another_run_made_meanwhile_is_kept(home, monkeypatch, capsys):
    from mfdan.video import fit
    planted = planted_study(home / "study", 3, databases=("SAMM",)).prepared
    monkeypatch.setattr(fit, "prepared_of", lambda study, method: planted)
    words = ["--method", "ststnet", "--profile", "smoke", "--to", str(home / "model")]
    other = []
    waiting = meanwhile(monkeypatch, fit, "save_model", lambda: other.append((
        status_of("fit", words), [path.read_bytes() for path in (home / "model").iterdir()])))
    assert status_of("fit", words) == 2 and not waiting
    err = capsys.readouterr().err
    assert other[0][0] == 0 and "model exists: choose another name" in err, err
    one_line(err)
    assert other[0][1] == [path.read_bytes() for path in (home / "model").iterdir()]


FILM = ["film", "a.avi", "--seconds", "0.2", "--fps", "10", "--width", "64"]


def test_a_film_that_another_run_made_meanwhile_is_kept(home, monkeypatch, capsys):
    from mfdan.corpus import footage
    whole = footage.write_video

    def write(film, to):
        with monkeypatch.context() as patch:
            patch.setattr(footage, "write_video", whole)
            assert cli.main([*FILM, "--seed", "1"]) == 0
        theirs.append((home / "here/a.avi").read_bytes())
        return whole(film, to)
    theirs = []
    monkeypatch.setattr(footage, "write_video", write)
    assert cli.main(FILM) == 1
    one_line(capsys.readouterr().err)
    assert theirs == [(home / "here/a.avi").read_bytes()]


def test_a_corpus_that_another_run_wrote_meanwhile_is_kept(home, monkeypatch, capsys):
    from mfdan.corpus import write
    to = home / "here/corpus"

    def fill(inside, size, seed, workers):
        if seed == 0: assert cli.main(["corpus", "quick", "--to", str(to), "--seed", "1"]) == 0
        write_atomic(inside / write.MARKER, str(seed))
    monkeypatch.setattr(write, "fill", fill)
    assert cli.main(["corpus", "quick", "--to", str(to)]) == 1
    err = capsys.readouterr().err
    one_line(err)
    assert "another run was faster" in err and list(contents(to).values()) == [b"1"]
    assert [path.name for path in to.parent.iterdir()] == ["corpus"]


@pytest.mark.slow
def test_two_trainings_at_once_give_what_one_gives(home, capsys):
    "Each in a process of its own, over one store of an older version."
    study = planted_study(home / "study", 3, databases=("SAMM",))
    before = write_older(home / "cache")
    code = "import sys; from mfdan.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["loso", "--profile", "smoke", "--method", "majority", "--workers", "1", "--prepared",
             str(study.prepared.folder)]
    both = [subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for one in both:
        out, err = one.communicate(timeout=300)
        assert one.returncode == 0 and "0 failed" in out, err
    assert cli.main(words) == 0 and " 0 trained" in capsys.readouterr().out
    assert before.items() <= contents(home / "cache").items()


# -- and what is right --------------------------------------------------------------------------

PAGES = ("README.md", "CONTRIBUTING.md", "nbs/start.ipynb", "nbs/index.ipynb", "nbs/one_page.ipynb",
         "nbs/add_a_method.ipynb")


def said_to_be_typed() -> list[str]:
    "Every command of mfdan in the pages that people begin with, without its comment."
    found = []
    for name in PAGES:
        file = project_root() / name
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".ipynb":
            text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
        found += re.findall(r"`(mfdan [^`\n]+)`", text)
        found += re.findall(r"^(?:\.venv/bin/)?(mfdan [^#\n]+)", text, re.M)
    return sorted({line.strip() for line in found})


@pytest.mark.parametrize("line", said_to_be_typed())
def test_what_the_pages_say_can_be_typed(line):
    name, *words = shlex.split(line)[1:]
    if name in ("COMMAND", "--help", "--version"): return
    assert name in cli.COMMANDS
    if words: cli.make_parser().parse_args([name, *words])
