"""A small run of `make paper`'s road, in a cache of its own: corpus, folds, notebooks, report."""
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from conftest import ROAD, film_ready
from matplotlib.pyplot import imread

from mfdan.core.config import RunConfig
from mfdan.results.certificate import certificate, hidden
from mfdan.results.products import notebook_folder
from mfdan.results.reproduce import Page, publish, reproduce
from mfdan.results.runs import rows_of_table_3, rows_of_table_5
from mfdan.results.study import NotInCorpus, Study
from mfdan.results.verify import verify
from mfdan.training.plan import fold_key, plan
from mfdan.training.predictions import load_predictions


def test_the_report_holds_what_was_asked_for_and_names_the_rest(road):
    run, report = road
    text = report.read_text()
    assert "Table III: MFDAN" in text and "data:image/png;base64" in text
    assert "table_5" in text.split("Not made:")[1].split("</p>")[0]
    assert 'src="http' not in text and "<script src" not in text


def test_products_carry_their_provenance_and_the_corpus_its_name(road):
    run, _ = road
    about = json.loads((run.folder / "table_3.json").read_text())
    assert about["corpus"] == "quick" and about["profile"] == "smoke" and about["prepared"]
    table = (run.folder / "table_3.csv").read_text()
    assert "SAMM-like (embedded)" in table and "composite-like (embedded)" in table
    assert {p.suffix for p in run.folder.glob("figure_5.*")} == {".png", ".svg", ".json"}


def test_a_second_call_repeats_nothing(road):
    run, report = road
    made = {p: p.stat().st_mtime_ns for p in (run.folder / "notebooks").iterdir()}
    folds = sorted((Study(run).store).glob("*.json"))
    before = [f.stat().st_mtime_ns for f in folds]
    assert folds and reproduce(run, only=ROAD) == report
    assert made == {p: p.stat().st_mtime_ns for p in (run.folder / "notebooks").iterdir()}
    assert before == [f.stat().st_mtime_ns for f in folds]


def test_a_changed_setting_makes_a_notebook_stale(road):
    run, _ = road
    target = run.folder / "notebooks/table_3.ipynb"
    key = target.with_suffix(".key").read_text()
    assert Page(target, target, key).up_to_date
    assert not Page(target, target, key[::-1]).up_to_date


def test_verify_notices_one_altered_digit(road, tmp_path):
    run, _ = road
    copy = tmp_path / "products"
    shutil.copytree(run.folder, copy)
    assert "table_3: same" in str(verify(copy))
    file = copy / "table_3.csv"
    text = file.read_text()
    at = next(i for i, c in enumerate(text) if c.isdigit() and text[i - 2:i] == "0.")
    file.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1:])
    outcome = verify(copy)
    assert not outcome.ok and "table_3: differs from what the folds give" in str(outcome)


def test_unverified_products_are_not_published(road):
    run, _ = road
    with pytest.raises(RuntimeError, match="(?s)not published.*table_5: missing"): publish(run)


def test_verify_looks_at_every_byte_of_the_prepared_clips(road):
    "One bit in the middle of an array, which a sample on loading may pass over."
    run, _ = road
    file = Study(run).prepared.folder / "magnified.npy"
    whole = file.read_bytes()
    place = len(whole) // 2 + 1
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
    try:
        outcome = verify(run.folder)
    finally:
        file.write_bytes(whole)
    assert outcome.code == 1 and "rests on prepared clips that changed" in str(outcome)
    assert "magnified.npy changed since it was prepared" in str(outcome)
    assert "changed" not in str(verify(run.folder))


def test_verify_trains_nothing_and_names_a_fold_that_is_gone(road, tmp_path):
    run, _ = road
    study = Study(run)
    folds = sorted(study.store.iterdir())
    row = study.rows(rows_of_table_3)[0].run
    gone = study.store / f"{fold_key(study.prepared, plan(study.prepared, row)[0], row)}.json"
    away = gone.rename(tmp_path / gone.name)
    try:
        said = str(verify(run.folder))
    finally:
        away.rename(gone)
    assert "table_3: cannot be checked here" in said and "folds have no result" in said
    assert sorted(study.store.iterdir()) == folds


def test_a_later_certificate_keeps_the_salt_of_the_earlier_one(road):
    run, _ = road
    certificates = []
    for _ in range(2):
        file = certificate(run.folder)
        content = json.loads(file.read_text())
        key = file.with_name(f"certificate-salt-{content['salt']}.txt")
        assert hidden("salt", key.read_text().split("\n")[0]) == content["salt"]
        certificates.append(content)
    assert certificates[0]["salt"] != certificates[1]["salt"]
    names = {hidden(clip, (run.folder / f"certificate-salt-{certificates[0]['salt']}.txt")
                    .read_text().split("\n")[0]) for clip in Study(run).prepared.clips.clip_id}
    assert {row["clip"] for row in certificates[0]["predictions"]} <= names


AT_ONCE = """
import sys
from mfdan.core.config import RunConfig
from mfdan.results.reproduce import reproduce
reproduce(RunConfig(profile="smoke", out=sys.argv[1]), only=["table_2", "table_3", "figure_5"])
"""


@pytest.mark.slow
def test_two_runs_at_once_make_what_one_makes(road, tmp_path):
    "Clips, folds and notebooks; their cache holds the corpus alone."
    run, _ = road
    film_ready(tmp_path / "cache")
    env = os.environ | {"MFDAN_CACHE": str(tmp_path / "cache")}
    both = [subprocess.Popen([sys.executable, "-c", AT_ONCE, str(tmp_path / "out")], env=env,
                             stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for one in both: assert one.communicate(timeout=500)[0] is None and one.returncode == 0
    made = tmp_path / "out" / run.folder.name
    for name in ("table_2.csv", "table_3.csv", "figure_5.png"):
        assert (made / name).read_bytes() == (run.folder / name).read_bytes()
    assert not [*(tmp_path / "cache").rglob(".*.tmp"), *made.rglob(".*.tmp")]


def test_an_unknown_value_of_a_parameter_stops_the_notebook(road, tmp_path):
    source = notebook_folder() / "table_1.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match="'paper', 'quick', 'smoke'"):
        papermill.execute_notebook(source, tmp_path / "out.ipynb", {"profile": "fast"},
                                   kernel_name="python3", progress_bar=False)


def test_every_paper_notebook_takes_the_same_parameters():
    for path in notebook_folder().glob("*.ipynb"):
        nb = nbformat.read(path, as_version=4)
        cell = next(c for c in nb.cells if "parameters" in c.metadata.get("tags", []))
        names = {line.split(":")[0] for line in cell.source.splitlines() if ":" in line}
        assert names == {"corpus", "profile", "seeds", "out", "faces"}, path.name


@pytest.fixture(scope="module")
def samm_alone(road, tmp_path_factory):
    "A root that holds one database of three."
    part = tmp_path_factory.mktemp("part")
    shutil.copytree(Study(road[0]).root / "SAMM", part / "SAMM")
    return RunConfig(corpus=str(part), profile="smoke", out=str(part / "out"))


def test_a_corpus_that_lacks_a_database_makes_what_it_can(samm_alone):
    text = reproduce(samm_alone, only=["table_4", "figure_6"]).read_text()
    assert "Table IV" in text and "SAMM UF1" in text and "<th>composite UF1" not in text
    assert "figure_6 (this is about CASME II, and this corpus has SAMM)" in text
    assert not (samm_alone.folder / "table_5.csv").exists()


def test_licensed_faces_are_drawn_when_asked_for_and_marked(samm_alone):
    def corner(run):  # of the first panel: the onset
        reproduce(run, only=["figure_1"])
        picture = imread(run.folder / "figure_1.png")
        return picture[60:160, 20:120, :3], json.loads((run.folder / "figure_1.json").read_text())
    blank, about = corner(samm_alone)
    assert np.ptp(blank) == 0 and not about["faces"]
    asked = replace(samm_alone, faces=True)
    face, about = corner(asked)
    assert face.std() > 0.05 and about["faces"]
    assert about["stamp"] == "licensed faces: do not publish"


def test_what_a_corpus_cannot_show_is_said_at_once(samm_alone):
    study = Study(samm_alone)
    assert study.scopes == ("SAMM",) and "composite: not in this corpus" in study.left_out
    assert [row.scope for row in study.rows(rows_of_table_3, rows_of_table_5)] == ["SAMM"]
    with pytest.raises(NotInCorpus, match="about CASME II, and this corpus has SAMM"):
        reproduce(samm_alone, only=["table_5"])


def broken_notebooks(folder, code):
    "The paper's notebooks, one of which ends in some code."
    shutil.copytree(notebook_folder(), folder)
    nb = nbformat.read(folder / "table_1.ipynb", as_version=4)
    nb.cells[-1].source = code
    nbformat.write(nb, folder / "table_1.ipynb")
    return folder


@pytest.mark.parametrize("code, says", [
    ("1 / 0", "ZeroDivisionError: division by zero"),
    pytest.param("import os; os._exit(1)", "its kernel died: is the memory full",
                 marks=pytest.mark.slow)], ids=["an error", "a dead kernel"])
def test_a_notebook_that_fails_costs_no_other(road, tmp_path, monkeypatch, code, says):
    run = RunConfig(corpus="quick", profile="smoke", out=str(tmp_path))
    broken = broken_notebooks(tmp_path / "nbs", code)
    monkeypatch.setattr("mfdan.results.products.notebook_folder", lambda: broken)
    with pytest.raises(RuntimeError, match=f"table_1.ipynb, {says}"):
        reproduce(run, only=["table_1", "table_2"])
    text = (run.folder / "report.html").read_text()
    assert "Table II" in text and f"table_1 ({says.split(':')[0]}" in text


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    run = RunConfig(profile="smoke", out=str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"): reproduce(run, only=["table_1"])


def test_incomplete_folds_are_named_and_nothing_is_half_filled(road):
    run, _ = road
    study = Study(run)
    row = study.rows(rows_of_table_5)[0]
    with pytest.raises(FileNotFoundError, match="CASME II/sub01"):
        load_predictions(study.store, study.prepared, row.run)
    assert Path(study.store).exists()
