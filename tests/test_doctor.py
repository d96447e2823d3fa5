"""`mfdan doctor` says what is, `mfdan clean` removes what it may: on caches good and bad."""
import ast
import errno
import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mfdan import cli
from mfdan.core import files
from mfdan.core.extras import EXTRAS
from mfdan.core.terminal import EXIT, CommandParser, exits, stopped
from mfdan.data import effort
from mfdan.results import doctor
from mfdan.results.verify import Verdict

KEY = "0123456789abcdef01234567"
MINE = ("mine/meta.json", "mine/thesis.tex")
GOOD = ("corpora/quick-0-v2/mfdan-corpus.json", "corpora/quick-0-v2/truth/a.npz",
        f"parts/flow-{KEY}.npz", f"parts/truth_flow-{KEY}.npz", "prepared/0123456789ab/meta.json",
        "prepared/0123456789ab/flow.npy", f"folds/{KEY}.json", f"folds/{KEY}.safetensors",
        f"development/{KEY}.json")
KEPT = ("corpora/written/0123456789ab-0123.json", "folds/log.txt")
OLDER = ("corpora/quick-0-v1/mfdan-corpus.json", "prepared/01234567/meta.json",
         "parts/flow-0123456789ab.npz", "folds/0123456789ab.json")
FOREIGN = ("prepared/thesis/meta.json", "prepared/0123456789ac/flow.npy", "parts/notes.npz",
           "folds/0123456789ab.json.bak", "corpora/quick/mfdan-corpus.json", "tables/table_3.csv",
           f"{KEY}.json", f"folds/partial/deep/{KEY}.json")


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def there(folder: Path) -> dict[str, bytes]:
    "Every file below a folder, by no link."
    return {str(path.relative_to(folder)): path.read_bytes()
            for base, _, names in os.walk(folder) for name in names
            if not (path := Path(base) / name).is_symlink()}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MFDAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(effort, "speeds", lambda: {"a core": 100.0})
    write(tmp_path, *MINE)
    return tmp_path / "cache"


@pytest.fixture
def ask(capsys, monkeypatch):
    "A command, what was typed for an answer; status, what was said, and where it went."
    def run(*argv: str, answer: str = ""):
        read, to = os.pipe()
        os.write(to, answer.encode())
        os.close(to)
        with os.fdopen(read) as typed:
            monkeypatch.setattr(sys, "stdin", typed)
            try:
                status = cli.main(list(argv))
            except SystemExit as stop:
                status = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err and "Errno" not in out + err and err.count("\n") < 2
        return status, out, err
    return run


def line_of(out: str, kind: str) -> list[str]:
    "What the table of the cache says of a kind."
    return next((line.split() for line in out.splitlines() if line.startswith(kind)), [])


# -- doctor -----------------------------------------------------------------------------------

def test_a_good_cache(cache, ask):
    write(cache, *GOOD, *KEPT)
    before = there(cache.parent)
    status, out, err = ask("doctor")
    assert (status, err) == (0, "") and "all that is needed runs here" in out, out
    assert there(cache.parent) == before
    assert [line_of(out, kind)[1] for kind in ("corpora", "parts", "prepared", "folds")] \
        == ["1", "2", "1", "2"]
    for word in ("solves TV-L1", "68 landmarks", "GPU", "Triton", "a core 100 GFLOP/s", "paper"):
        assert word in out, word


def test_an_empty_cache_stays_so(cache, ask):
    status, out, _ = ask("doctor")
    assert status == 0 and "nothing yet" in out and not cache.exists()
    assert ask("clean", "--yes")[1].endswith("nothing to remove\n") and not cache.exists()


def test_what_is_missing_is_named_with_what_it_is_for(cache, ask, monkeypatch):
    whole = doctor.versions
    monkeypatch.setattr(doctor, "versions", lambda *names: whole(*names) | {
        name: None for name in names if name in ("distributed", "einops")})
    monkeypatch.setitem(sys.modules, "dlib", None)
    status, out, _ = ask("doctor")
    said = " ".join(out.split())
    assert status == 1 and "without distributed: pip install 'mfdan[dask]'" in said
    assert "pip install 'einops'" in said and "on a cluster" in said
    assert "to be mended: needed, landmarks" in said


BARE = {  # what is not there -> what is to be mended, what is said of it
    ("torch", "numpy", "pandas", "cv2", "dlib"):
        ("OpenCV, landmarks, torch, GPU, Triton", "pip install torch"),
    ("packaging",): ("needed", "pip install packaging"),
    tuple(name for extra in EXTRAS.values() for name in extra.modules):
        ("OpenCV, landmarks", "pip install 'mfdan[faces]'"),
}


@pytest.mark.parametrize("gone", BARE, ids=lambda gone: gone[0])
def test_a_bare_python_is_told_what_it_lacks(cache, gone):
    code = (f"import sys; sys.modules |= dict.fromkeys({gone!r});"
            "from mfdan.cli import main; sys.exit(main(['doctor']))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          check=False)
    wrong, says = BARE[gone]
    assert (done.returncode, done.stderr) == (1, ""), done.stderr
    assert done.stdout.endswith(f"to be mended: {wrong}\n") and says in done.stdout, done.stdout


def test_a_full_disk(cache, ask, monkeypatch):
    usage = shutil.disk_usage(cache.parent)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    status, out, _ = ask("doctor")
    assert status == 1 and "1.0 MB free; make room" in out and "to be mended: disk" in out


SPACE = shutil.which("unshare") and subprocess.run(
    ["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not SPACE, reason="no mount namespace here")
def test_a_cache_that_is_mounted_to_be_read(cache):
    write(cache, *GOOD)
    mount = f"mount --bind '{cache}' '{cache}' && mount -o remount,ro,bind '{cache}'"
    code = ("import sys; from pathlib import Path; from mfdan.results.doctor import disk;"
            f"print(disk(Path({str(cache)!r}))[0]);"
            "from mfdan.cli import main; sys.exit(main(['clean', '--yes']))")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh",
                           sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 1 and "set MFDAN_CACHE to" in " ".join(done.stdout.split())
    assert done.stderr.count("\n") == 1, done.stderr
    assert "could not be removed" in done.stderr and "Read-only" in done.stderr
    assert set(GOOD) <= set(there(cache))


def test_a_read_only_cache(cache, ask, monkeypatch):
    write(cache, *GOOD)
    before = there(cache)

    def closed(one, other): raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(one))
    monkeypatch.setattr(files.os, "replace", closed)
    status, _, err = ask("clean", "--yes")
    assert status == 1 and "could not be removed" in err and "Read-only" in err
    monkeypatch.setattr(doctor.os, "access", lambda *how: False)
    status, out, _ = ask("doctor")
    assert status == 1 and "to be mended: cache" in out and there(cache) == before


def test_a_cache_from_an_older_version(cache, ask):
    write(cache, *OLDER, *FOREIGN)
    status, out, _ = ask("doctor")
    assert status == 0 and line_of(out, "unknown")[1] == "7"  # of `partial`, states alone
    status, out, _ = ask("clean", "--yes")
    assert status == 0 and set(there(cache)) == set(FOREIGN), out


# -- clean ------------------------------------------------------------------------------------

@pytest.mark.parametrize("answer", ["n\n", "\n", "no way\n", "yesterday\n"])
def test_asked_and_declined(cache, ask, answer):
    write(cache, *GOOD, *KEPT)
    before = there(cache.parent)
    status, out, err = ask("clean", answer=answer)
    assert (status, err) == (0, "") and out.endswith("nothing was removed\n")
    assert "remove 1 corpora, 2 parts, 1 prepared, 2 folds, 1 development" in out
    assert there(cache.parent) == before


def test_nobody_to_ask(cache, ask):
    write(cache, *GOOD)
    status, _, err = ask("clean")
    assert status == 1 and err.startswith("mfdan: nobody answered") and "--yes" in err
    assert set(there(cache)) == set(GOOD)


def test_agreed(cache, ask):
    write(cache, *GOOD, *KEPT)
    status, out, _ = ask("clean", answer="y\n")
    assert status == 0 and "freed" in out and set(there(cache)) == set(KEPT)
    assert set(MINE) <= set(there(cache.parent))


def test_of_a_kind_and_of_an_age(cache, ask):
    write(cache, *GOOD, *KEPT, f".{KEY}.tmp")
    ask("clean", "--yes", "--kind", "parts", "prepared")
    assert set(there(cache)) == {name for name in (*GOOD, *KEPT, f".{KEY}.tmp")
                                 if not name.startswith(("parts", "prepared"))}
    os.utime(cache / f"folds/{KEY}.json", (0, 0))
    ask("clean", "--yes", "--older", "30")
    left = set(there(cache))
    assert f"folds/{KEY}.json" not in left and f"folds/{KEY}.safetensors" in left
    assert set(KEPT) <= left


def test_a_run_at_work_keeps_what_it_writes(cache, ask):
    half = files.beside(cache / "prepared/0123456789ab")
    state = f"folds/partial/{KEY}.part"
    write(cache, f"prepared/{half.name}/flow.npy", state)
    assert "nothing to remove" in ask("clean", "--yes")[1]
    for path in (half, half / "flow.npy", cache / state): os.utime(path, (0, 0))
    assert ask("clean", "--yes", "--kind", "unfinished")[0] == 0 and not there(cache)


def test_a_record_outlives_its_corpus(cache, ask):
    "Without it, a copy of the corpus elsewhere would be taken for licensed data."
    write(cache, *GOOD, *KEPT)
    os.utime(cache / KEPT[0], (0, 0))
    ask("clean", "--yes", "--kind", "corpora")
    assert KEPT[0] in there(cache) and not (cache / "corpora/quick-0-v2").exists()
    assert ask("clean", "--yes", "--kind", "records")[0] == 2


def test_a_link_that_leads_outside(cache, ask):
    outside = cache.parent / "outside"
    write(outside, *GOOD, "meta.json", "mfdan-corpus.json")
    write(cache, *GOOD)
    (cache / "prepared/0123456789ac").symlink_to(outside)
    (cache / "corpora/full-0-v2").symlink_to(outside)
    (cache / f"parts/flow-{KEY[::-1]}.npz").symlink_to(outside / GOOD[2])
    (cache / "prepared/0123456789ab/way").symlink_to(outside)
    shutil.rmtree(cache / "folds")
    (cache / "folds").symlink_to(outside / "folds")
    before = there(outside)
    status, out, _ = ask("clean", "--yes")
    assert status == 0 and line_of(out, "unknown")[1] == "4" and not line_of(out, "folds ")
    assert there(outside) == before and there(cache) == {}
    assert (cache / "folds").is_symlink() and (cache / "prepared/0123456789ac").is_symlink()


def test_a_link_that_comes_while_somebody_thinks(cache, ask, monkeypatch):
    outside = cache.parent / "outside"
    write(cache, *GOOD)
    write(outside, *GOOD)

    def slow(question):
        shutil.rmtree(cache / "folds")
        (cache / "folds").symlink_to(outside / "folds")
        return True
    monkeypatch.setattr(cli, "agreed", slow)
    status, _, err = ask("clean", "--kind", "folds")
    assert status == 1 and "not in the cache" in err and set(there(outside)) == set(GOOD)


def test_the_cache_may_be_a_link(cache, ask):
    write(cache.parent / "elsewhere", *GOOD)
    cache.symlink_to(cache.parent / "elsewhere")
    assert ask("clean", "--yes")[0] == 0 and there(cache.parent / "elsewhere") == {}


# -- what people guess --------------------------------------------------------------------------

def test_version(ask):
    assert ask("--version") == (0, "mfdan 0.1.0\n", "")


def statuses(function) -> set[int]:
    "The whole numbers that a function returns, or exits with."
    found = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        exits_ = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("exit")
        if not exits_ and not isinstance(node, ast.Return): continue
        found |= {part.value for part in ast.walk(node)
                  if isinstance(part, ast.Constant) and type(part.value) is int}
    return found


def test_every_status_is_in_the_table_and_the_table_in_help_and_readme(ask):
    actions = [action for action, *_ in cli.COMMANDS.values()]
    used = set().union(*map(statuses, (cli.main, stopped, CommandParser.error,
                                       Verdict.code.fget, *actions)))
    assert used == EXIT.keys()
    assert ask("--help")[1].endswith(exits())
    readme = (files.project_root() / "README.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| (\d+) \| (.*) \|$", readme, re.M)) \
        == {str(status): text for status, text in EXIT.items()}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_help_has_one_example(ask, name):
    status, out, _ = ask(name, "--help")
    shown = [line for line in out.splitlines() if line.startswith(f"example: mfdan {name}")]
    assert status == 0 and len(shown) == 1, f"give @command of do_{name} an example=..."
    cli.make_parser().parse_args(shown[0].split()[2:])  # it can be typed as it stands
