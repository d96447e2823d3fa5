"""What a real shell offers at a press of the tab key."""
import shutil
import subprocess
import sys

import pytest

from mfdan import cli
from mfdan.core.config import EMBEDDED, PROFILES
from mfdan.results.catalogue import all_products
from mfdan.zoo.contract import method_names


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    "As the command prints it; a shell that reads it."
    file = tmp_path_factory.mktemp("shell") / "mfdan.bash"
    code = "import sys; from mfdan.cli import main; sys.exit(main(['completion', 'bash']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    file.write_text(done.stdout, encoding="utf-8")
    return file


def offered(script, line):
    "What bash offers behind a line, asked of its own machinery."
    words = line.split(" ")
    ask = (f"source {script}; COMP_LINE={line!r}; COMP_POINT={len(line)};"
           f"COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1};"
           "complete -p mfdan | grep -q 'default -F _mfdan'; _mfdan;"
           "printf '%s\\n' \"${COMPREPLY[@]}\"")
    done = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True,
                          check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_takes_the_script(script):
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("line, words", {
    "mfdan rep": ["reproduce"], "mfdan --v": ["--version"], "mfdan ": [*cli.COMMANDS],
    "mfdan reproduce --prof": ["--profile"], "mfdan reproduce --profile ": [*PROFILES],
    "mfdan reproduce --corpus ": [*EMBEDDED], "mfdan corpus ": [*EMBEDDED],
    "mfdan reproduce --only table_3 figure_5 figure_6_": ["figure_6_shares"],
    "mfdan loso --method stst": ["ststnet"], "mfdan methods ": method_names(),
    "mfdan loso --seeds 3 table_3_sl": ["table_3_slices"],
    "mfdan reproduce --faces --all --fo": ["--force"],
    "mfdan fit --to ": [], "mfdan recognise ons": [], "mfdan nothing ": [],  # files, if any
}.items(), ids=str)
def test_what_bash_offers(script, line, words):
    found = offered(script, line)
    assert set(words) <= set(found) if line.endswith(" ") and words else found == words


def test_every_product_is_offered(script):
    assert offered(script, "mfdan reproduce --only ") == [p.name for p in all_products()]


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh here")
def test_zsh_takes_it_too(tmp_path):
    code = "import sys; from mfdan.cli import main; sys.exit(main(['completion', 'zsh']))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (tmp_path / "m.zsh").write_text(said.stdout)
    ask = (f"source {tmp_path}/m.zsh; words=(mfdan rep); CURRENT=2;"
           "COMP_WORDS=(mfdan rep); COMP_CWORD=1; emulate -L ksh; _mfdan; print ${COMPREPLY[*]}")
    done = subprocess.run(["zsh", "-fc", ask], capture_output=True, text=True, check=False)
    assert "reproduce" in done.stdout, done.stderr
