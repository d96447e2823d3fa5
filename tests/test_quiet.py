"""A command shows progress, results, and problems with their remedy, and nothing else."""
import os
import re
import subprocess
import sys
import warnings

import pytest

from mfdan import cli
from mfdan.results.study import Study

NOISE = re.compile(r"ERROR|CRITICAL|Traceback|[Ww]arning|WARN|IPKernelApp|resource_tracker")


def noise(said: str) -> list[str]:
    "The lines that are none of it."
    return [line for line in said.splitlines() if NOISE.search(line)]


def test_noise_is_noticed():
    for line in ("[IPKernelApp] ERROR | KeyboardInterrupt caught in kernel", "UserWarning: there",
                 "Traceback (most recent call last):"):
        assert noise(f"notebooks: 100%\n{line}\nreport.html") == [line]
    assert noise("notebooks: 100%|##########| 4/4\nreport.html") == []


CALLS = {
    "check": lambda run, root: ["check", str(root)],
    "methods": lambda run, root: ["methods"],
    "doctor": lambda run, root: ["doctor"],
    "verify": lambda run, root: ["verify", str(run.folder)],
    "prepare": lambda run, root: ["prepare", "--profile", "smoke"],
    "loso": lambda run, root: ["loso", "table_3", "--profile", "smoke"],
    "what is refused": lambda run, root: ["verify", "nowhere"],
}


@pytest.mark.parametrize("call", CALLS)
def test_a_command_says_nothing_else(road, capfd, call):
    "In this process; a warning that Python would show is one, too."
    run, _ = road
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        cli.main(CALLS[call](run, Study(run).root))
    out, err = capfd.readouterr()
    assert (out or err) and noise(out + err) == [] and list(map(str, shown)) == []


def test_a_run_of_a_notebook_says_nothing_else(road, tmp_path):
    "As a terminal shows it, to the very end of the process: kernels and workers speak late."
    words = ["reproduce", "--profile", "smoke", "--out", str(tmp_path), "--only", "table_3"]
    code = f"import sys; from mfdan.cli import main; sys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "report.html" in done.stdout, said
    assert noise(said) == []
