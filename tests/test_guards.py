"""Each guard finds its fault, planted in a small project, and nothing in a sound one."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import guards
import pytest

ROOT = Path(__file__).resolve().parents[1]


def notebook(*cells):
    made = [{"cell_type": "code", "id": f"c{i}", "execution_count": None, "outputs": [],
             "metadata": {}, **c} for i, c in enumerate(cells)]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5},
                      indent=1, sort_keys=True) + "\n"


@pytest.fixture
def project(tmp_path):
    "The real settings and config notebook, one module on the GPU side, one paper notebook."
    root = tmp_path / "mfdan"
    (root / "nbs/paper").mkdir(parents=True)
    for name in ("settings.ini", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, root / name)
    (root / "nbs/20_windows.ipynb").write_text(notebook(
        {"source": ["#| default_exp windows"]},
        {"source": ["#| export\n", "def one(): return 1"]},
        {"source": ["assert one() == 1"]}))
    (root / "nbs/paper/table.ipynb").write_text(notebook(
        {"source": ["seed: int = 0"], "metadata": {"tags": ["parameters"]}}))
    (root / "mfdan").mkdir()
    (root / "mfdan/__init__.py").write_text('__version__ = "0.1.0"\n')
    (root / "nbs/paper/.notest").touch()
    subprocess.run([Path(sys.executable).with_name("nbdev_export")], cwd=root, check=True,
                   capture_output=True)
    return root


def found(root): return [line for guard in guards.GUARDS for line in guard(root)]


def test_a_sound_project_passes(project): assert found(project) == []


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("plant, says", [
    (lambda r: edit(r / "nbs/paper/table.ipynb", '"parameters"', '"other"'),
     "nbs/paper/table.ipynb: no cell is tagged 'parameters'"),
    (lambda r: edit(r / "mfdan/windows.py", "return 1", "return 2"),
     "mfdan/windows.py: differs from what its notebook gives"),
    (lambda r: edit(r / "nbs/paper/table.ipynb", '"outputs": []',
                    '"outputs": [{"name": "stdout", "output_type": "stream", "text": ["1"]}]'),
     "nbs/paper/table.ipynb: outputs are committed"),
    (lambda r: edit(r / "mfdan/windows.py", "return 1", "return elsewhere"),
     "mfdan/windows.py: Undefined name `elsewhere`"),
    (lambda r: edit(r / "mfdan/windows.py", "def one", "import cv2\ndef one"),
     "mfdan/windows.py: a GPU node lacks cv2"),
    (lambda r: edit(r / "nbs/20_windows.ipynb", "assert one() == 1", "one()"),
     "nbs/20_windows.ipynb: exports code and tests nothing"),
    (lambda r: edit(r / "nbs/20_windows.ipynb", '"execution_count": null', '"execution_count": 7'),
     "nbs/20_windows.ipynb: differs"),
])
def test_a_planted_fault_is_found(project, plant, says):
    plant(project)
    assert any(line.startswith(says) for line in found(project)), found(project)


def test_a_heavy_import_is_found_through_a_neighbour(project):
    (project / "mfdan/align.py").write_text("import dlib\n")
    edit(project / "mfdan/windows.py", "def one", "from mfdan.align import dlib\ndef one")
    assert any("lacks dlib (imported through windows -> align)" in line
               for line in guards.imports(project))


def test_an_import_from_a_higher_floor_is_found(project):
    (project / "nbs/30_losses.ipynb").write_text(notebook({"source": ["#| default_exp losses"]}))
    (project / "mfdan/losses.py").write_text("")
    edit(project / "mfdan/windows.py", "def one", "from mfdan.losses import one as _\ndef one")
    assert any("does not lie below it (30 against 20)" in line for line in guards.imports(project))
