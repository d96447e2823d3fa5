"""The paper's notebooks as a reader meets them, one by one; and Grad-CAM against captum's."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from mfdan.results.gradcam import grad_cam
from mfdan.results.products import notebook_folder
from mfdan.results.study import Study

NOTEBOOKS = sorted(notebook_folder().glob("*.ipynb"))


def papermill(*words: object, cwd: Path, cache: Path | None = None) -> str:
    "What the command prints."
    done = subprocess.run([sys.executable, "-m", "papermill", *map(str, words)], cwd=cwd,
                          env=os.environ | ({"MFDAN_CACHE": str(cache)} if cache else {}),
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["table_3", "speed"])
def test_papermill_tells_the_parameters_with_their_types_and_meaning(name, tmp_path):
    said = papermill("--help-notebook", notebook_folder() / f"{name}.ipynb", cwd=tmp_path)
    lines = [" ".join(line.split()) for line in said.splitlines()]
    text = " ".join(lines)
    assert "corpus: str (default \"quick\") quick, full, or the root" in text
    assert "profile: str (default \"quick\") quick, paper or smoke" in text
    assert "seeds: int (default 1) how many seeds" in text
    assert "out: str (default \"paper_figures/local\") where the products go" in text
    assert "faces: bool (default False) draw licensed faces" in text


def test_every_notebook_documents_its_parameters_alike():
    cells = {p.name: next(c.source for c in nbformat.read(p, 4).cells
                          if "parameters" in c.metadata.get("tags", [])) for p in NOTEBOOKS}
    assert len(set(cells.values())) == 1, cells


def test_a_notebook_runs_alone_from_another_folder(road, tmp_path):
    "On clips of two subjects, with nothing prepared or trained before."
    few = "SMIC/SMIC_all_cropped/HS"
    for name in ("s01", "s02"):
        shutil.copytree(Study(road[0]).root / few / name, tmp_path / "data" / few / name)
    papermill(notebook_folder() / "table_3.ipynb", "out.ipynb", "-p", "profile", "smoke",
              "-p", "corpus", tmp_path / "data", "-p", "out", tmp_path / "products",
              cwd=tmp_path, cache=tmp_path / "cache")
    made = {p.name for p in (tmp_path / "products").rglob("*") if p.is_file()}
    assert (tmp_path / "out.ipynb").exists()
    assert {"table_3.csv", "table_3.md", "table_3.tex"} <= made


class Seen(nn.Module):
    "Two inputs, features with channels first, then the same with channels last."
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(6, 5, 3, stride=2)
        self.explained_layer = nn.Identity()
        self.head = nn.Sequential(nn.Tanh(), nn.Linear(5, 3))

    def forward(self, image, flow):
        seen = self.features(torch.cat([image, flow], 1))
        return self.head(self.explained_layer(seen.movedim(1, -1))).mean((1, 2))


def test_heat_is_captums():
    torch.manual_seed(0)
    network, image, flow = Seen().double(), *torch.randn(2, 4, 3, 17, 17).double()
    classes = [0, 2, 1, 2]
    peer = LayerGradCam(network, network.features).attribute((image, flow), classes)
    peer = LayerGradCam.interpolate(peer.relu(), (17, 17), "bilinear")[:, 0]
    heat = grad_cam(network, (image, flow), classes)
    assert (heat.sum((1, 2)) > 0).any()
    torch.testing.assert_close(heat, peer / peer.sum((1, 2), keepdim=True).clamp(min=1e-12))
