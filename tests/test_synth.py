"""The embedded corpus: faces that are found, Table II's counts, the truth, the same bytes."""
from collections import Counter

import numpy as np
import pytest

from mfdan.corpus import write
from mfdan.corpus.clip import LOOKS, Clip
from mfdan.corpus.film import backwards, film, identity_of, motion, move, render
from mfdan.corpus.write import list_clips, read_truth, write_corpus
from mfdan.data.protocols import check_counts, expected_counts
from mfdan.data.registry import record_of
from mfdan.data.root import read_root
from mfdan.pixels.align import find_landmarks
from mfdan.pixels.flow import grey, tvl1
from mfdan.results.study import Study

SUBJECTS = list({(c.database, c.subject): c for c in list_clips("full", 0)}.values())


@pytest.mark.parametrize("database", LOOKS)
def test_every_identity_is_a_face_to_the_detector(database):
    some = [c for c in SUBJECTS if c.database == database]
    look = LOOKS["CASME II"]  # the detector is asked on these frames
    for clip in some:
        identity = identity_of(clip)
        rest, matrix = film(identity, look)
        drawn = identity.shape @ matrix[:, :2].T + matrix[:, 2]
        apart = np.linalg.norm(find_landmarks(rest) - drawn, axis=1)
        eyes = np.linalg.norm(drawn[36:42].mean(0) - drawn[42:48].mean(0))
        assert np.median(apart) < 0.1 * eyes, (clip.clip_id, np.median(apart) / eyes)


def test_full_has_the_counts_of_table_ii():
    clips = list_clips("full", 3)
    for database in LOOKS:
        want = expected_counts("megc2019")[database]
        here = [c for c in clips if c.database == database]
        found = Counter(c.emotion for c in here)
        assert {name: found[name] for name in want["counts"]} == want["counts"]
        assert len({c.subject for c in here}) == want["subjects"]
    assert len({c.clip_id for c in clips}) == len(clips)


def test_no_two_identities_are_alike():
    shapes = np.stack([identity_of(c).shape for c in SUBJECTS])
    apart = np.abs(shapes[:, None] - shapes[None]).mean((2, 3)) + 99 * np.eye(len(shapes))
    assert apart.min() > 1


@pytest.mark.parametrize("database", LOOKS)
def test_the_truth_is_where_the_apex_is_found(database):
    "Reading the apex through the truth gives the onset again; reading it unmoved does not."
    import cv2
    clip = next(c for c in list_clips("quick", 0) if c.database == database)
    made = render(clip)
    onset, apex = (made.frames[t].astype(np.float32) for t in (0, made.apex))
    h, w = onset.shape[:2]
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    back = cv2.remap(apex, x + made.flow[0].astype(np.float32), y + made.flow[1].astype(np.float32),
                     cv2.INTER_CUBIC)
    moving = np.linalg.norm(made.flow, axis=0) > 0.5 * np.linalg.norm(made.flow, axis=0).max()
    through, unmoved = (np.abs(image[moving] - onset[moving]).mean() for image in (back, apex))
    assert through < 0.8 * unmoved, (through, unmoved)


def test_tvl1_finds_the_motion_of_a_face():
    "Mean endpoint error where the face is, at the frame's own size: under 0.3 px."
    clip = Clip("CASME II", "sub05", "EP01_01f", "positive", "full", 0)
    look, identity = LOOKS["CASME II"], identity_of(clip)
    rest, matrix = film(identity, look)
    field = motion(clip, look, identity, matrix).at(look.length // 2, look)
    rows, columns = (slice(120, 360), slice(220, 420))  # the face's interior
    flow = tvl1(*(grey(image)[60:420, 140:500] for image in (rest, move(rest, field))))
    error = np.linalg.norm(flow.transpose(1, 2, 0) - field[60:420, 140:500], axis=-1)
    inside = error[rows.start - 60:rows.stop - 60, columns.start - 140:columns.stop - 140]
    assert inside.mean() < 0.3, inside.mean()
    assert inside.mean() < 0.5 * np.linalg.norm(field[rows, columns], axis=-1).mean()


def test_moving_back_undoes_moving_where_nothing_folds():
    clip = Clip("SMIC-HS", "s03", "s03_po_01", "positive", "quick", 1)
    look, identity = LOOKS["SMIC-HS"], identity_of(clip)
    _, matrix = film(identity, look)
    moving = motion(clip, look, identity, matrix)
    for name in ("expression", "stray", "lids"):
        field = getattr(moving, name)
        dx = np.gradient(field[..., 0], axis=1)
        dy = np.gradient(field[..., 1], axis=0)
        assert min((1 + dx).min(), (1 + dy).min()) > 0.1, f"{name} folds"
        assert np.abs(backwards(field)).max() <= np.abs(field).max() + 1e-4


def test_a_seed_decides_every_byte_and_workers_none(tmp_path, monkeypatch):
    "Of a clip or two of each database, which share nothing with the others."
    few = list_clips("quick", 7)[::15]
    monkeypatch.setattr(write, "list_clips", lambda size, seed: few)
    a, b = (write_corpus(tmp_path / name, "quick", 7, workers) for name, workers in
            (("a", 1), ("b", 2)))
    files = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file())
    for file in files: assert (a / file).read_bytes() == (b / file).read_bytes(), file
    assert {clip.database for clip in few} == set(LOOKS)
    assert set(read_root(a).clips.clip_id) == {clip.clip_id for clip in few}


def test_quick_reads_back_with_its_truth(road):
    root = Study(road[0]).root
    reading = read_root(root)
    assert len(reading.clips) == 60 and not len(reading.problems)
    for row in reading.clips.itertuples():
        truth = read_truth(root, row.clip_id)
        assert truth.flow.shape[0] == 2 and truth.aus and len(truth.stray) == 2
        if record_of(row.database).sheet:  # the corpus speaks as the annotation does
            assert row.emotion in {"disgust", "happiness", "surprise"}


@pytest.mark.slow
def test_full_reads_back_as_table_ii(tmp_path):
    reading = read_root(write_corpus(tmp_path / "full", "full", 0))
    counts = check_counts(reading.clips)
    assert (counts.found == counts.expected).all(), counts
    assert not len(reading.problems)
