"""The embedded corpus, written in one more official layout, goes the whole road."""
import os
from dataclasses import replace

import more_layouts as more
import pytest

from mfdan.core.config import PROFILES
from mfdan.corpus.write import embedded_corpus
from mfdan.data.protocols import PROTOCOLS, classes_of, load_protocol
from mfdan.data.registry import record_of
from mfdan.data.root import read_root
from mfdan.pixels.prepare import prepare
from mfdan.results.runs import variant
from mfdan.results.table import Table, as_markdown
from mfdan.scores.metrics import confusion, uar, uf1
from mfdan.training.loso import run_loso
from mfdan.training.plan import plan
from mfdan.training.predictions import load_predictions

SETTINGS = replace(PROFILES["quick"], factors=(1,), magnifier="linear")


def rewritten(clips, root):
    "Clips of one database in the layout of MMEW: its folders, its names, its sheet."
    sheet, rows = record_of("MMEW").sheet, []
    for i, clip in enumerate(clips.itertuples()):
        person = f"S{int(clip.subject[-2:]):02d}"
        name = f"{person}-01-{i:03d}"
        folder = root / f"MMEW/{person}/{clip.emotion}/{name}"
        folder.mkdir(parents=True)
        for number, file in clip.frames.items(): os.link(file, folder / f"{number}{file.suffix}")
        rows.append(more.cells(sheet, dict(
            subject=person, name=name, onset=int(clip.onset), apex=int(clip.apex),
            offset=int(clip.offset), emotion=clip.emotion, units="4")))
    more.book(root / "MMEW" / sheet.official, {"Sheet1": [more.header(sheet), *rows]})
    return root


@pytest.fixture
def protocol(tmp_path):
    "Three classes, from a small file."
    (tmp_path / "three.toml").write_text(
        'name = "three-of-mmew"\nclasses = ["negative", "positive", "surprise"]\n[labels.MMEW]\n'
        'disgust = "negative"\nhappiness = "positive"\nsurprise = "surprise"\n')
    yield load_protocol(tmp_path / "three.toml").name
    PROTOCOLS.pop("three-of-mmew")


@pytest.mark.slow
def test_the_embedded_corpus_in_the_layout_of_mmew(tmp_path, protocol):
    source = read_root({"CASME II": embedded_corpus("quick", 0)}).clips
    people = sorted(source.subject.unique())[:2]
    source = source[source.subject.isin(people) & (source.emotion != "others")]
    local = tmp_path / "copy"
    try:
        rewritten(source, local)
    except OSError:  # the cache lies on another disk
        pytest.skip("frames cannot be linked from the cache")
    reading = read_root({"MMEW": local})
    assert reading.left_out.empty and len(reading.clips) == len(source)
    assert sorted(zip(reading.clips.onset, reading.clips.apex)) == sorted(
        zip(source.onset, source.apex))

    prepared = prepare(reading.clips, SETTINGS, tmp_path / "cache", workers=1, progress=False)
    run = variant("quick", "MMEW", method="linear", protocol=protocol)
    assert len(plan(prepared, run)) == 2
    made = run_loso(prepared, [run], tmp_path / "store", workers=1, progress=False)
    assert (made.trained, made.failed) == (2, [])
    predicted = load_predictions(tmp_path / "store", prepared, run)
    assert sorted(predicted.clip_id) == sorted(reading.clips.clip_id)
    classes = classes_of(protocol, "MMEW")
    counted = confusion(predicted.true.tolist(), predicted.pred.tolist(), classes)
    table = as_markdown(Table.of([{"corpus": "MMEW-like (embedded)", "clips": len(predicted),
                                   "UF1": uf1(counted), "UAR": uar(counted)}]))
    assert "MMEW-like (embedded)" in table and str(len(source)) in table
