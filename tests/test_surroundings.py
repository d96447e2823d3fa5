"""Where a command runs: a locale without UTF-8, a path with blanks and umlauts, what is closed."""
import os
import subprocess
import sys

import layouts
import pytest

from mfdan import cli
from mfdan.core.files import write_atomic
from mfdan.corpus import write
from mfdan.corpus.takes import VERSION

ODD = "Größe für mich"
BARE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": ""}


def typed(*words, **env) -> subprocess.CompletedProcess:
    "A command in a process of its own, without a terminal."
    code = "import sys; from mfdan.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], check=False, timeout=300,
                          env=os.environ | env, capture_output=True, stdin=subprocess.DEVNULL)


def line_of(done: subprocess.CompletedProcess) -> str:
    "What is said of a problem: one line of ASCII."
    said = done.stderr.decode("ascii")
    assert said.count("\n") == 1 and said.startswith("mfdan"), said
    return said


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / ODD
    folder.mkdir()
    return folder


def test_a_locale_without_utf8_and_a_path_with_blanks_and_umlauts(home):
    layouts.write_all(home / "Kopie", layouts.few())
    env = {"LC_ALL": "C", "MFDAN_CACHE": str(home / "cache")}  # Python turns to UTF-8 by itself
    done = typed("check", home / "Kopie", **env)
    said = done.stdout.decode("utf-8")
    assert done.returncode in (0, 1) and done.stderr == b"" and "9 clips" in said, done.stderr
    done = typed("film", home / "ein film.mp4", "--seconds", "0.2", "--fps", "10", "--width", "64",
                 **env)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    assert (home / "ein film.mp4").stat().st_size


def test_where_python_was_told_to_know_ascii_alone_a_path_is_refused_in_a_line(home):
    done = typed("check", home, **BARE)
    assert done.returncode == 2 and "rename it" in line_of(done)
    done = typed("verify", home.parent / "none", **BARE)
    assert done.returncode == 1 and "none" in line_of(done)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_says_a_wrong_option_in_one_line(capsys, name):
    with pytest.raises(SystemExit, match="2"): cli.main([name, "--größe"])
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and err.startswith("mfdan") and "--help" in err


def test_a_corpus_of_an_older_version_is_left_alone(home, monkeypatch):
    older = home / f"corpora/quick-0-v{VERSION - 1}"
    older.mkdir(parents=True)
    (older / "mfdan-corpus.json").write_text('{"corpus": "quick", "version": 1}')
    monkeypatch.setenv("MFDAN_CACHE", str(home))
    monkeypatch.setattr(
        write, "fill", lambda inside, *how: write_atomic(inside / write.MARKER, "{}"))
    assert write.embedded_corpus("quick").name == f"quick-0-v{VERSION}"
    assert [path.name for path in older.iterdir()] == ["mfdan-corpus.json"]


def test_a_root_without_permission_is_said_with_what_to_do(home, monkeypatch, capsys):
    layouts.write_all(home / "copy", layouts.few())
    allowed = os.access  # whoever runs the tests may well be root
    monkeypatch.setattr(os, "access", lambda path, mode, **how: not str(path).startswith(
        str(home / "copy")) and allowed(path, mode, **how))
    assert cli.main(["check", str(home / "copy")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "may not be read" in err and "change its permissions" in err
