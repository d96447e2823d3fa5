"""A product is one record and one notebook: here outside the package, which is not touched."""
import json
import sys
from dataclasses import replace

import nbformat
import pandas as pd
import pytest

from mfdan.cli import main
from mfdan.core.files import file_digest, project_root
from mfdan.results.catalogue import all_products, find_products, notebooks
from mfdan.results.products import PRODUCTS, Product
from mfdan.results.reproduce import chosen, reproduce
from mfdan.results.runs import rows_of_table_3
from mfdan.results.study import Study
from mfdan.results.verify import check_product, reader_of, verify
from mfdan.training.plan import fold_key, plan

RECORD = '''
from pathlib import Path

from mfdan.results.measured import with_interval
from mfdan.results.products import product
from mfdan.results.runs import rows_of_table_3
from mfdan.results.save import shown
from mfdan.results.study import predictions
from mfdan.results.table import Table


@product("recalls", notebook="recalls", title="Recall by scope", chapter="tables",
         runs=rows_of_table_3, folder=Path(__file__).parent)
def recalls(study):
    measured = predictions(study, study.rows(rows_of_table_3))
    return Table.of([{"scope": shown(study.run, scope), "UF1": with_interval(part)}
                     for scope, part in measured.groupby("scope")])
'''
PARAMETERS = '''
corpus: str = "quick"
profile: str = "quick"
seeds: int = 1
out: str = "paper_figures/local"
faces: bool = False
'''
SHOWN = '''
from mfdan.core.config import RunConfig
from mfdan.results.catalogue import save
from mfdan.results.study import Study

run = RunConfig(corpus=corpus, profile=profile, seeds=seeds, out=out, faces=faces)
save(Study(run), "recalls")
'''


def write_notebook(file):
    cells = [nbformat.v4.new_markdown_cell("# Recall by scope"),
             nbformat.v4.new_code_cell(PARAMETERS.strip(), metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell(SHOWN.strip())]
    kernel = {"name": "python3", "language": "python", "display_name": "python3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), file)


def package() -> dict[str, str]:
    "Every file that a change of the package would touch."
    root = project_root()
    return {str(path): file_digest(path) for place in ("mfdan", "nbs", "tests", ".ci")
            for path in sorted((root / place).rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    "A folder with a record and its notebook, known for the length of a test."
    (tmp_path / "recalls.py").write_text(RECORD)
    write_notebook(tmp_path / "recalls.ipynb")
    monkeypatch.setenv("MFDAN_PRODUCTS", str(tmp_path / "recalls.py"))
    before = dict(PRODUCTS)
    yield tmp_path
    PRODUCTS.clear()
    PRODUCTS.update(before)
    sys.modules.pop("mfdan_products_recalls", None)


def test_one_record_and_one_notebook_are_enough(road, outside, capsys):
    before = package()
    run = replace(road[0], out=str(outside / "out"))
    assert "recalls" in chosen() and chosen(["recalls"]).keys() == {"recalls"}
    order = list(notebooks())
    assert order.index("recalls") < order.index("figure_1") < order.index("prepare")

    report = reproduce(run, only=["recalls"]).read_text()
    assert "Recall by scope" in report and "SAMM-like (embedded)" in report
    table = pd.read_csv(run.folder / "recalls.csv")
    assert list(table) == ["scope", "UF1", "UF1 low", "UF1 high"]
    assert json.loads((run.folder / "recalls.json").read_text())["prepared"]

    assert "recalls: same" in str(verify(run.folder))
    for command in ("reproduce", "loso"):
        with pytest.raises(SystemExit): main([command, "--help"])
        assert "recalls" in capsys.readouterr().out
    assert package() == before


def test_an_edited_number_differs_and_a_fold_that_is_gone_cannot_be_checked(road, outside):
    run = replace(road[0], out=str(outside / "out"))
    reproduce(run, only=["recalls"])
    record, = find_products(["recalls"])
    reader = reader_of(run.folder)
    file = run.folder / "recalls.csv"
    text = file.read_text()
    file.write_text(text.replace("0.", "0.1", 1))
    assert check_product(record, reader, run.folder).state == "differs from what the folds give"
    file.write_text(text)
    study = Study(run)
    row = study.rows(rows_of_table_3)[0].run
    gone = study.store / f"{fold_key(study.prepared, plan(study.prepared, row)[0], row)}.json"
    away = gone.rename(outside / gone.name)
    try:
        found = check_product(record, reader, run.folder)
    finally:
        away.rename(gone)
    assert found.state == "cannot be checked here" and "folds have no result" in found.why
    assert check_product(record, reader, run.folder).state == "same"


@pytest.mark.parametrize("old, new, says", [
    ('@product("recalls"', '@product("table_3"', "'table_3' is registered already (Table III"),
    ('notebook="recalls"', 'notebook="nowhere"', "there is no notebook .*nowhere.ipynb: write it"),
    ('notebook="recalls"', 'notebook="table_3"', "'table_3' is that of 'table_3"),
    ('chapter="tables"', 'when="sometimes"', "when must be one of 'default', 'on request'"),
    ('chapter="tables"', 'chapter="prelude"', "chapter must be one of 'tables', 'figures'"),
])
def test_an_unsound_record_is_refused_in_one_line(outside, old, new, says):
    (outside / "recalls.py").write_text(RECORD.replace(old, new))
    with pytest.raises(ValueError, match=says.replace("(", r"\(")) as refused: all_products()
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("MFDAN_PRODUCTS", "/nowhere/mine.py")
    with pytest.raises(FileNotFoundError, match="MFDAN_PRODUCTS names /nowhere/mine.py"):
        all_products()


def test_products_whose_clips_are_not_here_cannot_be_checked(road, capsys):
    "The road's cache has clips of the smoke profile alone."
    folder = project_root() / "paper_figures/synthetic/quick-quick"
    assert main(["verify", str(folder)]) == 3
    said = capsys.readouterr().out
    assert "quick-quick: follows as far as it can be checked here" in said
    assert "NOT" not in said and "`mfdan loso`) trains them" in said


def test_every_default_table_can_be_computed_again():
    "But for the network's parts, which lie above the room of the products."
    unmade = {p.name for p in all_products() if p.kind == "table" and p.when == "default"
              and p.make is None}
    assert unmade == {"figure_2"}
    assert all(isinstance(product, Product) and product.file.exists()
               for product in all_products())
