"The ten lines of the documentation's page work as they stand, from a folder that is elsewhere."
import json
import os
import subprocess
import sys
from pathlib import Path

import mfdan
from mfdan.data.planted import planted
from mfdan.data.prepared import save_prepared
from mfdan.data.protocols import MEGC2019

ROOT = Path(mfdan.__file__).resolve().parents[1]
PAGE = ROOT / "nbs/add_a_method.ipynb"


def file_of_the_page() -> str:
    "The code cell that the page tells its reader to save."
    cells = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    found, = [text for text in texts if '@method("mine"' in text and not text.startswith("#|")]
    return found


def test_the_method_has_ten_lines():
    lines = [line for line in file_of_the_page().splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("from ", "import "))]) == 10


def test_the_page_s_file_goes_through_loso_from_elsewhere(tmp_path):
    (tmp_path / "mine.py").write_text(file_of_the_page())
    save_prepared(planted(6, 3, databases=MEGC2019.databases), tmp_path / "prepared")
    command = [sys.executable, "-c", "import sys; from mfdan.cli import main; sys.exit(main())",
               "loso", "--method", "./mine.py:Mine", "--prepared", "prepared"]
    environment = os.environ | {"MFDAN_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert "12 trained" in done.stdout, done.stdout
    composite, = [line for line in done.stdout.splitlines() if line.strip().startswith("composite")]
    assert float(composite.split()[2]) > 0.9, composite  # UF1: a motion was planted
