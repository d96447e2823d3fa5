"""The embedded corpus on film: counts, truth, the same bytes; long videos as scripted."""
import errno
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from mfdan.bench.population import landmarks_of
from mfdan.corpus import write
from mfdan.corpus.clip import LOOKS, SIZES, Filmed
from mfdan.corpus.expression import Turn
from mfdan.corpus.footage import film_video, happened, write_video
from mfdan.corpus.scenes import actor_of, scene_of
from mfdan.corpus.script import NEUTRAL, Course
from mfdan.corpus.stage import Puppet
from mfdan.corpus.takes import take
from mfdan.corpus.write import embedded_corpus, list_clips, read_truth, write_corpus
from mfdan.data.protocols import check_counts, expected_counts
from mfdan.data.registry import record_of
from mfdan.data.root import read_root
from mfdan.results.study import Study

SEED = 1000  # of development; the reported seed is 0
QUICK = list_clips("quick", SEED)
SMALL = [clip for clip in QUICK if clip.database == "SMIC-HS"]


def test_full_has_the_counts_of_table_ii():
    clips = list_clips("full", SEED)
    for database in LOOKS:
        want = expected_counts("megc2019")[database]
        here = [clip for clip in clips if clip.database == database]
        found = Counter(clip.emotion for clip in here)
        assert {name: found[name] for name in want["counts"]} == want["counts"]
        assert len({clip.subject for clip in here}) == want["subjects"]
    assert len(QUICK) == 60 and len({clip.clip_id for clip in clips}) == len(clips)


def left_over(made, flow):
    "Grey levels between the onset and the apex pulled back, where its skin moves to be seen."
    onset, apex = (made.frames[t].astype(np.float32) for t in (0, made.apex))
    h, w = made.hidden.shape
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    to = np.stack([x, y], -1) + flow.transpose(1, 2, 0).astype(np.float32)
    moving = ~made.hidden & (np.linalg.norm(made.flow, axis=0) > 0.3)  # pixel
    return abs(cv2.remap(apex, to, None, cv2.INTER_CUBIC) - onset).mean(-1)[moving].mean()


@pytest.mark.parametrize("database", ["CASME II", "SMIC-HS"])
def test_the_truth_leads_back_to_the_onset_and_dlib_sees_one_face(database, monkeypatch):
    monkeypatch.setitem(SIZES, "quick", SIZES["quick"]._replace(kept=3))
    clips = [clip for clip in QUICK if clip.database == database]
    for clip in clips[:9:4]:  # of one subject
        made, noise = take(clip), 2 * LOOKS[database].noise / np.sqrt(np.pi)
        through, unmoved = left_over(made, made.flow), left_over(made, 0 * made.flow)
        assert through < noise + 1.5 and through < 0.8 * unmoved, (clip.clip_id, through, unmoved)
        assert 0.3 < np.linalg.norm(made.flow, axis=0).max() < 15
        assert landmarks_of(made.frames[0])[0] == 1


def test_an_expression_begins_at_the_onset_and_ends_at_the_offset():
    for clip in SMALL[:2]:
        look, actor = LOOKS[clip.database], actor_of(clip)
        scene = scene_of(clip, actor)
        alone = scene._replace(stray={}, looking={}, glance={}, blink=np.inf)
        size = [sum(alone.at(t, look).weights.values()) for t in range(look.length + 1)]
        assert size[0] == 0 and size[-1] < 1e-9 and max(size) > 0
        assert abs(np.argmax(size) - scene.apex) <= 1
        strays = set(scene.stray) - set(scene.expression)
        for weights in (scene.at(0, look).weights, scene.at(1, look).weights):
            assert all(abs(weights.get(name, 0)) < 0.1 for name in strays)
        assert scene.at(0, look).weights.get("eyeBlinkLeft", 0) < 0.2  # awake at the onset
        assert scene.at(0, look).turn == scene.start != Turn()


def test_workers_and_runs_change_no_byte(tmp_path, monkeypatch):
    few = [clip for clip in SMALL if clip.subject in ("s01", "s02")][:2]
    monkeypatch.setattr(write, "list_clips", lambda size, seed: few)
    a, b = (write_corpus(tmp_path / name, "quick", SEED, workers)
            for name, workers in (("a", 1), ("b", 2)))
    files = sorted(path.relative_to(a) for path in a.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(b) for path in b.rglob("*") if path.is_file())
    for file in files: assert (a / file).read_bytes() == (b / file).read_bytes(), file
    reading = read_root(a)
    assert set(reading.clips.clip_id) == {clip.clip_id for clip in few}
    assert set(reading.clips.corpus) == {"quick"}
    truth = read_truth(a, few[0].clip_id)
    made = take(few[0])
    assert abs(truth.flow - made.flow).max() < 0.002 and (truth.hidden == made.hidden).all()
    assert truth.aus == made.units and len(truth.stray) == 2


def test_quick_reads_back_with_its_truth(road):
    root = Study(road[0]).root
    reading = read_root(root)
    assert len(reading.clips) == 60 and not len(reading.problems)
    for row in reading.clips.itertuples():
        truth = read_truth(root, row.clip_id)
        assert truth.flow.shape[0] == 2 and truth.aus and len(truth.stray) == 2
        if record_of(row.database).sheet:  # the corpus speaks as the annotation does
            assert row.emotion in {"disgust", "happiness", "surprise"}


def test_what_there_is_not_is_refused_in_one_line(tmp_path):
    for wrong in (lambda: write_corpus(tmp_path / "a", "huge"),
                  lambda: embedded_corpus("huge", 0, tmp_path),
                  lambda: write_corpus(tmp_path / "a", "quick", -3),
                  lambda: write_corpus(tmp_path / "a", "quick", 1.5),
                  lambda: film_video(0, 1, fps=0), lambda: film_video(0, 1, fps=float("nan")),
                  lambda: film_video(0, 1, seconds=-1), lambda: film_video(0, 1, width=12),
                  lambda: film_video(0, "x"), lambda: film_video(True, 0),
                  lambda: Course(talk=1e9)):
        with pytest.raises(ValueError) as refused: wrong()
        assert "\n" not in str(refused.value)
    assert not any(tmp_path.iterdir())


def test_a_disk_that_fills_keeps_nothing(tmp_path, monkeypatch):
    few = [SMALL[0]._replace(seed=SEED + 1)]  # of whom no stage is held
    monkeypatch.setattr(write, "list_clips", lambda size, seed: few)
    monkeypatch.setattr(Puppet, "__init__", full_disk)
    with pytest.raises(OSError, match="the disk is full below .* nothing was kept there"):
        write_corpus(tmp_path / "corpus", "quick", SEED + 1, 1)
    few = film_video(SEED, 1, 0.2, 10, 64, NEUTRAL)
    monkeypatch.setattr(type(few), "frames", full_disk)
    for name in ("a.mp4", "a.avi", "frames"):
        with pytest.raises(OSError, match="the disk is full"): write_video(few, tmp_path / name)
    assert not any(tmp_path.iterdir())


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_video_is_its_script_at_any_rate_and_size(tmp_path):
    slow, fast = (film_video(SEED, 3, 20.0, fps, 96) for fps in (25, 200))
    said, twice = happened(slow), happened(fast)
    assert json.loads(json.dumps(said)) == said and (said["frames"], twice["frames"]) == (500, 4000)
    kinds = Counter(event["kind"] for event in said["events"])
    assert kinds["blink"] >= 3 and kinds["micro"] + kinds["macro"] >= 1
    for a, b in zip(said["events"], twice["events"]):
        assert {k: a[k] for k in ("kind", "units", "emotion")} == {
            k: b[k] for k in ("kind", "units", "emotion")}
        for when in ("onset", "apex", "offset"): assert abs(8 * a[when] - b[when]) <= 8
    busy = [event for event in said["events"] if event["kind"] not in ("blink", "glance")]
    for one, following in zip(busy, busy[1:]): assert one["offset"] < following["onset"]
    lids = slow.script.events[[event.kind for event in slow.script.events].index("blink")]
    assert slow.script.at(lids.apex).weights["eyeBlinkLeft"] == pytest.approx(1, abs=0.05)
    assert not {"micro", "macro"} & {e.kind for e in film_video(SEED, 3, 60, 1, 96, NEUTRAL)
                                     .script.events}


def test_a_video_is_streamed_and_the_same_again():
    video, held = film_video(SEED, 4, 40.0, 1, 64, Course(turn=0)), []
    tracemalloc.start()
    first = []
    for number, frame in enumerate(video.frames()):
        if number < 5: first.append(frame)
        if number in (10, 39): held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert number == 39 and held[1] < held[0] + 200_000, held
    for frame, again in zip(first, video.frames()): assert (frame == again).all()


def test_an_event_of_a_video_is_seen_in_its_flow():
    video = film_video(SEED, 5, 10.0, 50, 160, Course(micro=30, macro=0, turn=0, blink=0, talk=0))
    event = next(event for event in happened(video)["events"] if event["kind"] == "micro")
    far = np.linalg.norm(video.motion(event["onset"], event["apex"]).flow, axis=0).max()
    assert event["peak_px"] > 0.3 and abs(far - event["peak_px"]) < 0.6, (far, event)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_every_onset_is_one_face_and_every_truth_holds(size, tmp_path):
    root = write_corpus(tmp_path / size, size, SEED)
    reading = read_root(root)
    if SIZES[size].counts == "full":
        counts = check_counts(reading.clips)
        assert (counts.found == counts.expected).all(), counts
    for row in reading.clips.itertuples():
        truth = read_truth(root, row.clip_id)
        onset, apex = (np.ascontiguousarray(cv2.imread(str(Path(row.frames[t])))[..., ::-1])
                       for t in (row.onset, row.apex))
        assert landmarks_of(onset)[0] == 1, row.clip_id
        made = Filmed({0: onset, 1: apex}, 1, 1.0, truth.aus, truth.stray, truth.flow, truth.hidden)
        noise = 2 * LOOKS[row.database].noise / np.sqrt(np.pi)
        through, unmoved = left_over(made, truth.flow), left_over(made, 0 * truth.flow)
        assert through < noise + 1.5 and through < 0.8 * unmoved, (row.clip_id, through, unmoved)
