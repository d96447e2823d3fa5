"""`mfdan video` and `mfdan spot`: films, licensed layouts, kills, planted faults."""
import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import more_layouts as more
import numpy as np
import pytest

from mfdan.cli import main
from mfdan.core.files import stable_hash
from mfdan.corpus.footage import film_video, write_video
from mfdan.corpus.script import Course
from mfdan.data.videos import read_videos
from mfdan.video.events import read_submission
from mfdan.video.long import spot_root
from mfdan.video.outcome import WORDS, outcome_of
from mfdan.video.recognise import demonstration
from mfdan.video.reel import Reel, open_reel
from mfdan.video.trace import NO_FACE, SEEN, whole_trace, windows
from mfdan.video.video import video

ONE = Course(micro=20, macro=0, blink=20, glance=0, talk=0, chew=0, turn=0)


@pytest.fixture(scope="session")
def film(tmp_path_factory) -> Path:
    "Three seconds at 100 frames a second: one micro-expression and one blink, as JPEG files."
    return write_video(film_video(1011, 11, 3.0, 100, 320, ONE), tmp_path_factory.mktemp("f") / "a")


def truth_of(film: Path) -> list[dict]:
    return json.loads((film / "truth.json").read_text())["events"]


def reel_of(frames: list, rate: float = 50.0) -> Reel:
    return Reel("planted", rate, len(frames),
                lambda first: ((k / rate, frames[k]) for k in range(first, len(frames))), dict)


def watched(frames: list, rate: float = 50.0):
    return whole_trace(list(windows(reel_of(frames, rate))))


@pytest.fixture(scope="session")
def frames(film) -> list:
    return [frame for _, frame in open_reel(film).grey(0)]


def test_the_micro_expression_is_found_and_the_blink_is_not(film, tmp_path, capsys):
    assert main(["video", str(film), "--out", str(tmp_path / "out"), "--model", "none"]) == 0
    said = json.loads((tmp_path / "out" / "events.json").read_text(encoding="utf-8"))
    true = [event for event in truth_of(film) if event["kind"] == "micro"]
    assert [event["kind"] for event in said["events"]] == ["micro"] * len(true)
    for event, found in zip(true, said["events"]): assert abs(event["apex"] - found["apex"]) <= 3
    page = html.unescape((tmp_path / "out" / "page.html").read_text(encoding="utf-8"))
    text = capsys.readouterr().out
    for words in WORDS: assert words in text and words in page and words in said["words"]


def test_every_output_says_what_the_demonstration_is(film, tmp_path, capsys):
    copy = shutil.copytree(demonstration(), tmp_path / "copy")
    for model in ([], ["--model", str(copy)]):
        out = tmp_path / f"out{len(model)}"
        assert main(["video", str(film), "--out", str(out), *model]) == 0
        said = json.loads((out / "events.json").read_text(encoding="utf-8"))
        assert said["events"][0]["label"] in said["events"][0]["probabilities"]
        page = html.unescape((out / "page.html").read_text(encoding="utf-8"))
        csv = (out / "events.csv").read_text(encoding="utf-8")
        taken_back = {event["label"] for event in said["events"]} == {"nothing"}
        for text in (page, capsys.readouterr().out, " ".join(said["model"]), csv):
            assert "trained on synthetic faces" in text or text is csv and taken_back
    plain = tmp_path / "plain"
    assert main(["video", str(film), "--out", str(plain), "--model", "none"]) == 0
    assert json.loads((plain / "events.json").read_text())["events"][0]["label"] == ""


def spoilt(to: Path, change) -> Path:
    "The demonstration with another card, which has the digest of what it says."
    card = json.loads((shutil.copytree(demonstration(), to) / "card.json").read_text())
    change(card)
    card["digest"] = stable_hash({name: card[name] for name in card if name != "digest"}, 64)
    (to / "card.json").write_text(json.dumps(card))
    return to


FAULTS = {"another method": (lambda card: card.update(method="off_apexnet"), "another version"),
          "no method": (lambda card: card.update(method="nobody's"), "another version"),
          "another format": (lambda card: card.update(format=99), "another version"),
          "another stage": (lambda card: card.update(stage=-1), "prepared by another version"),
          "other weights": (lambda card: card.update(weights="0" * 64), "does not fit the weights"),
          "a class more": (lambda card: card["classes"].append("joy"), "another version")}


@pytest.mark.parametrize("name", FAULTS)
def test_a_model_that_does_not_fit_is_refused_before_a_frame_is_watched(
        name, film, tmp_path, capsys):
    change, words = FAULTS[name]
    model = spoilt(tmp_path / "model", change)
    assert main(["video", str(film), "--out", str(tmp_path / "o"), "--model", str(model)]) == 1
    text = capsys.readouterr().err
    assert words in " ".join(text.split()) and "Traceback" not in text
    assert not (tmp_path / "o").exists()


def test_a_model_that_is_not_there_or_was_changed(film, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    changed = shutil.copytree(demonstration(), tmp_path / "changed") / "card.json"
    changed.write_text(changed.read_text().replace("synthetic", "real"))
    for model, words in ((tmp_path / "none", "is no model"), (tmp_path / "empty", "is no model"),
                         (changed.parent, "was changed after it was written")):
        assert main(["video", str(film), "--out", str(tmp_path / "o"), "--model", str(model)]) == 1
        assert words in " ".join(capsys.readouterr().err.split())


def test_half_the_rate_and_half_the_size(film, frames):
    apex = next(event["apex"] for event in truth_of(film) if event["kind"] == "micro")
    small = [cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
             for frame in frames]
    for some, rate in ((frames[::2], 50.0), (small, 100.0)):
        found = outcome_of(reel_of(some, rate), watched(some, rate)).events
        assert [event["kind"] for event in found] == ["micro"]
        assert abs(found[0]["apex_s"] - apex / 100) <= 0.05


def test_a_face_that_leaves_and_comes_back_and_a_second_one(frames):
    wall = np.full_like(frames[0], 130)
    trace = watched([*frames[:30], *[wall] * 60, *frames[30:80]])
    assert (trace.state[30:90] == NO_FACE).all() and (trace.state[:30] == SEEN).all()
    assert (trace.state[-25:] == SEEN).all() and trace.epoch[0] < trace.epoch[-1]
    two = watched([np.hstack([frame, frame]) for frame in frames[:12]])
    outcome = outcome_of(reel_of(frames[:12]), two)
    assert any("2 faces" in note for note in outcome.notes) and (two.state == SEEN).all()


def test_4k_and_repeated_frames(frames):
    large = [cv2.resize(frame, (3840, 4224)) for frame in frames[:3]]
    assert (watched([*large, large[-1]]).state == SEEN).all()
    assert watched([*large, large[-1]]).odd.tolist() == [0, 0, 0, 1]


def test_an_uneven_rate_is_said_and_moments_decide(frames):
    moments = np.sort(np.r_[np.arange(0, 0.5, 0.01), np.arange(0.5, 2, 0.03)])
    uneven = replace(reel_of(frames), grey=lambda first: iter(list(zip(moments, frames))[first:]))
    trace = whole_trace(list(windows(uneven)))
    assert any("rate varies" in note for note in outcome_of(uneven, trace).notes)


def test_grey_pictures_and_a_film_that_was_cut(frames, tmp_path):
    (tmp_path / "grey").mkdir()
    for number, frame in enumerate(frames[:8]):
        cv2.imwrite(str(tmp_path / "grey" / f"{number}.png"), frame)  # one channel
    assert (video(tmp_path / "grey", tmp_path / "o1", "none", 50, show=False).trace.state
            == SEEN).all()
    to = cv2.VideoWriter(str(tmp_path / "cut.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 50.0,
                         frames[0].shape[::-1])
    for frame in frames[:12]: to.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    to.release()
    whole = (tmp_path / "cut.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[:len(whole) * 6 // 10])
    outcome = video(tmp_path / "cut.avi", tmp_path / "o2", "none", show=False)
    assert 0 < len(outcome.trace) < 12 and any("promises" in note for note in outcome.notes)


KILL = """
import sys
from mfdan.video.video import video
video(sys.argv[1], sys.argv[2], "none", fps=10)
"""


def test_killed_and_started_again_it_says_the_same(film, tmp_path):
    run = subprocess.Popen([sys.executable, "-c", KILL, str(film), str(tmp_path / "killed")],
                           stderr=subprocess.DEVNULL)
    first = tmp_path / "killed" / "000000.npz"
    until = time.monotonic() + 300
    while not first.exists() and run.poll() is None and time.monotonic() < until: time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL) if run.poll() is None else None
    run.wait()
    assert first.exists()
    kept = first.stat().st_mtime_ns
    again = video(film, tmp_path / "killed", "none", fps=10, show=False)
    whole = video(film, tmp_path / "whole", "none", fps=10, show=False)
    assert again.events == whole.events and again.spans == whole.spans
    assert first.stat().st_mtime_ns == kept
    for name in ("events.csv", "events.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_apexes_that_nobody_annotated_are_spotted_by_a_command(film, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MFDAN_CACHE", str(tmp_path / "cache"))
    event = next(event for event in truth_of(film) if event["kind"] == "micro")
    numbers = range(event["onset"], event["offset"] + 1)
    from mfdan.data.clips import make_table
    from mfdan.data.root import Reading
    from mfdan.results.study import Study
    files = {n: film / f"{n:06d}.jpg" for n in numbers}
    clips = make_table([dict(database="SMIC-HS", subject="s01", name="a", emotion="negative",
                             onset=event["onset"], apex=event["onset"] + 1, offset=event["offset"],
                             apex_source="middle", frames=files)])
    monkeypatch.setattr(Study, "reading", Reading(clips, clips[:0]))
    said = []
    for apex in ("middle", "spotted"):
        assert main(["prepare", "--corpus", str(film.parent), "--method", "ststnet", "--workers",
                     "1", "--apex", apex]) == 0
        folder = Path(capsys.readouterr().out.split()[-1])
        said.append((folder / "clips.csv").read_text())
    assert "middle" in said[0] and "spotted" in said[1] and said[0] != said[1]


LAYOUTS = [more.write_casme_sq,
           pytest.param(more.write_samm_long, marks=pytest.mark.slow),
           pytest.param(more.write_smic_long, marks=pytest.mark.slow)]


@pytest.mark.parametrize("write", LAYOUTS)
def test_licensed_layouts(write, tmp_path, capsys):
    write(tmp_path / "root")
    assert main(["spot", str(tmp_path / "root"), "--out", str(tmp_path / "out")]) == 0
    text, tables = capsys.readouterr().out, read_videos(tmp_path / "root")
    scores = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert scores[0].startswith(",hit,miss,false alarm")  # noise has no face: all is missed
    assert scores[3].split(",")[:4] == ["both", "0", str(len(tables.events)), "0"]
    assert (tmp_path / "out" / "submission.csv").read_text() == "vid,pred_onset,pred_offset,type\n"
    assert ".44" in text


def test_a_licensed_recording_with_a_face(film, tmp_path):
    more.write_casme_sq(tmp_path / "root", 5)
    home = next((tmp_path / "root/CASME_sq/rawpic").glob("s15/*"))
    for path in home.iterdir(): path.unlink()
    for number, file in enumerate(sorted(film.glob("*.jpg"))[::3], 11):
        (home / f"img{number:03d}.jpg").write_bytes(file.read_bytes())
    for other in (tmp_path / "root/CASME_sq/rawpic").iterdir():
        if other.name != "s15":
            for path in other.rglob("*.jpg"): path.unlink()
    spot_root(tmp_path / "root", tmp_path / "out", show=False)
    tables = read_videos(tmp_path / "root")
    found = read_submission(tmp_path / "out" / "submission.csv", tables.videos)
    apex = next(event["apex"] for event in truth_of(film) if event["kind"] == "micro")
    assert found.kind.tolist() == ["micro"] and home.name in found.video_id[0]
    assert found.onset[0] <= 11 + apex / 3 <= found.offset[0]


def test_nothing_goes_where_git_could_add_it(film, tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert main(["video", str(film), "--out", str(tmp_path / "out")]) == 1
    assert main(["spot", str(film.parent), "--out", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(film, tmp_path):
    code = """
import resource, sys
from mfdan.video.kept import claim, keep_watching
from mfdan.video.reel import Reel, open_reel
film = [frame for _, frame in open_reel(sys.argv[1]).grey(0)][:50]
def grey(first):
    for k in range(first, int(sys.argv[3])): yield k / 30, film[k % 50]
from pathlib import Path
claim(Path(sys.argv[2]), "x")
keep_watching(Reel("long", 30, 0, grey, dict), Path(sys.argv[2]), False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)
"""
    peaks = [int(subprocess.run([sys.executable, "-c", code, str(film), str(tmp_path / str(n)),
                                 str(n)], capture_output=True, text=True, check=True).stdout)
             for n in (60 * 30, 600 * 30)]
    print("peak memory at 1 and 10 minutes:", peaks, "MB")
    assert peaks[1] - peaks[0] < 40  # the curves alone: 16200 frames of 200 bytes, a few times
