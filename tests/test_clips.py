"""What must hold of any clip table, whatever the annotations say."""
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfdan.data.clips import frame_path, make_table, middle_frame, nearest_frame
from mfdan.data.protocols import (
    MEGC2019,
    PROTOCOLS,
    check_counts,
    classes_of,
    expected_counts,
    in_scope,
    membership_hash,
    with_labels,
)
from mfdan.data.registry import record_of


@st.composite
def records(draw):
    database = draw(st.sampled_from(MEGC2019.databases))
    onset, rise, fall = (draw(st.integers(1, 60)) for _ in range(3))
    numbers = range(onset, onset + rise + fall + 1)
    return dict(database=database, subject=f"s{draw(st.integers(1, 4))}",
                name=f"c{draw(st.integers(1, 30))}",
                emotion=draw(st.sampled_from(record_of(database).emotions)),
                onset=onset, apex=draw(st.sampled_from([onset + rise, None])),
                offset=onset + rise + fall, frames={n: Path(f"{n}.png") for n in numbers})


def identity(record): return record["database"], record["subject"], record["name"]


tables = st.lists(records(), max_size=12, unique_by=identity).map(make_table)


@given(tables, st.sampled_from(sorted(PROTOCOLS)))
@settings(deadline=None, max_examples=60)
def test_every_clip_is_labelled_or_named_with_its_rule(clips, protocol):
    labelled = with_labels(clips, protocol)
    left = [clip_id for clip_id, rule in labelled.attrs["left_out"] if rule]
    assert sorted([*labelled.clip_id, *left]) == list(clips.clip_id)
    for row in labelled.itertuples(): assert row.label in classes_of(protocol, row.database)
    assert list(labelled.clip_id) == sorted(labelled.clip_id) and not labelled.apex.isna().any()
    assert list(labelled.index) == list(range(len(labelled)))


@given(tables, st.randoms())
@settings(deadline=None, max_examples=40)
def test_membership_does_not_depend_on_the_order_of_rows(clips, random):
    order = list(range(len(clips)))
    random.shuffle(order)
    assert membership_hash(clips.iloc[order]) == membership_hash(clips)
    labelled = with_labels(clips)
    assert membership_hash(labelled.iloc[::-1]) == membership_hash(clips)


@given(tables)
@settings(deadline=None, max_examples=40)
def test_one_changed_label_changes_the_membership(clips):
    labelled = with_labels(clips)
    for i in range(len(labelled)):
        other = labelled.copy()
        other.loc[i, "label"] = "negative" if other.label[i] != "negative" else "positive"
        assert membership_hash(other) != membership_hash(labelled)


@given(tables, st.sampled_from(sorted(PROTOCOLS)))
@settings(deadline=None, max_examples=40)
def test_the_check_counts_what_is_there(clips, protocol):
    counts, labelled = check_counts(clips, protocol), with_labels(clips, protocol)
    classes = counts[~counts["class"].isin(("subjects", "-"))]
    for scope, group in classes.groupby("database"):
        assert group.found.sum() == len(in_scope(labelled, scope, protocol))
    removed = sum(int(part.split(" x ")[0]) for text in counts.removed if text
                  for part in text.split("; "))
    assert removed == len(clips) - len(labelled)  # every rule's tally, each clip once


@given(st.sets(st.integers(1, 200), min_size=1), st.integers(1, 200))
@settings(deadline=None)
def test_the_nearest_frame_is_nearest(numbers, wanted):
    found = nearest_frame(numbers, wanted)
    assert found in numbers and all(abs(found - wanted) <= abs(n - wanted) for n in numbers)
    clip = {"clip_id": "x", "frames": {n: Path(str(n)) for n in numbers}}
    assert frame_path(clip, wanted) == Path(str(found))


@given(st.sets(st.integers(1, 200), min_size=1))
@settings(deadline=None)
def test_the_middle_frame_lies_between_onset_and_offset(numbers):
    onset, offset = min(numbers), max(numbers)
    found = middle_frame(numbers, onset, offset)
    assert all(abs(2 * found - onset - offset) <= abs(2 * n - onset - offset) for n in numbers)
    if len(numbers) == offset - onset + 1: assert found == (onset + offset) // 2


def test_an_excluded_name_is_excluded_in_the_licensed_database_alone():
    clip = dict(database="CASME II", subject="sub04", name="EP12_01f", emotion="disgust", onset=1,
                apex=2, offset=3, frames={n: Path(f"{n}.png") for n in (1, 2, 3)})
    assert len(with_labels(make_table([clip]))) == 0
    assert len(with_labels(make_table([clip]), "native")) == 1
    assert len(with_labels(make_table([{**clip, "corpus": "full"}]))) == 1


def test_the_shipped_expectation_is_table_ii():
    "Table II of the paper, row by row."
    table = {"SMIC-HS": (70, 51, 43, 16), "CASME II": (88, 32, 25, 24), "SAMM": (92, 26, 15, 28),
             "composite": (250, 109, 83, 68)}
    for scope, (*counts, subjects) in table.items():
        shipped = expected_counts()[scope]
        assert list(shipped["counts"].values()) == counts and shipped["subjects"] == subjects
        assert {len(h) for h in shipped["sha256"].values()} == {64}


def test_no_list_of_clips_is_shipped():
    "Membership follows from the user's files: counts and hashes, and two exclusions by name."
    package = Path(__file__).resolve().parents[1] / "mfdan"
    named = "\n".join(p.read_text(encoding="utf-8") for p in package.rglob("*")
                      if p.suffix in (".py", ".json", ".csv", ".txt"))
    members = Path(__file__).resolve().parents[2] / "shared/paper/cde442.csv"
    if not members.exists(): pytest.skip("the list of members is not at hand")
    clips = pd.read_csv(members, dtype=str)["clip"]
    clips = {c for c in clips if c not in ("EP02_01f", "006_1_2", "s01_ne_01")}  # as examples
    assert sum(c in named for c in clips) < 5
