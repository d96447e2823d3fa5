"""What is wrong with a clip is named and the rest goes on; nothing is computed twice or half."""
import errno
import os
import shutil
import stat
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.data import astronaut

from mfdan.core import files
from mfdan.core.config import AlignConfig, FlowConfig, PrepareConfig
from mfdan.data import prepared as folders
from mfdan.data.clips import make_table
from mfdan.data.images import read_image
from mfdan.data.prepared import load_prepared, read_problems
from mfdan.pixels import parts as room
from mfdan.pixels.align import fit_alignment, warp
from mfdan.pixels.flow import resize_flow, tvl1
from mfdan.pixels.prepare import prepare
from mfdan.pixels.strain import strain

PORTRAIT = np.ascontiguousarray(astronaut()[:260, 80:360])
QUICK = PrepareConfig(size=28, factors=(0, 1), magnifier="linear",
                      flow=FlowConfig(backend="torch", setting="fast"))


def texture(seed, side=48):
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=(side, side, 3)), (0, 0), 2)
    return np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)


def write(root, number, database="SMIC-HS", frames=None, suffix=".png"):
    "One clip on disk, three frames of a moving texture unless told; its record for `make_table`."
    folder = root / f"s{number // 2 + 1:02d}" / f"clip{number}"
    folder.mkdir(parents=True, exist_ok=True)
    if frames is None:
        frames = [np.roll(texture(number), shift, 1) for shift in (0, 1, 0)]
    paths = {n: folder / f"img{n}{suffix}" for n in (1, 5, 9)}
    for path, frame in zip(paths.values(), frames):
        if not cv2.imwrite(str(path), frame[..., ::-1] if frame.ndim == 3 else frame):
            raise OSError(path)
    return dict(database=database, subject=folder.parent.name, name=folder.name, onset=1, apex=5,
                offset=9, emotion="happiness" if database != "SMIC-HS" else "positive",
                frames=paths)


def write_clips(root, n=4): return make_table([write(root, i) for i in range(n)])


def quiet(clips, cache, config=QUICK, workers=1, **options):
    "Prepare without the warning about clips that were left out."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prepare(clips, config, cache, workers=workers, progress=False, **options)


def content(folder):
    "Every file of a folder, byte by byte."
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture
def clips(tmp_path): return write_clips(tmp_path / "corpus")


@pytest.fixture
def computed(monkeypatch):
    "What is computed from here on: (kind, clip)."
    seen, original = [], room.compute_part
    def spy(kind, job, *args):
        seen.append((kind, job.clip_id.split("/")[-1]))
        return original(kind, job, *args)
    monkeypatch.setattr(room, "compute_part", spy)
    return seen


# -- bad input: named, recorded, and the rest goes on -----------------------------------------

def all_frames(paths, frame):
    for path in paths.values(): cv2.imwrite(str(path), frame[..., ::-1])


def no_face(paths): all_frames(paths, texture(0, 260))
def two_faces(paths): all_frames(paths, np.hstack([PORTRAIT] * 2))
def cut_face(paths): all_frames(paths, PORTRAIT[:145])
def other_size(paths): cv2.imwrite(str(paths[5]), PORTRAIT[:200, :, ::-1])
def vanished(paths): paths[5].unlink()
def garbage(paths): paths[5].write_bytes(b"this is no picture")
def torn(paths): paths[5].write_bytes(paths[5].read_bytes()[:2000])
def empty(paths): paths[1].write_bytes(b"")
def a_folder(paths): paths[5].unlink(); paths[5].mkdir()


FAULTS = {no_face: "no face found", two_faces: "2 faces, the second", cut_face: "cut by the border",
          other_size: "onset 280x260, apex 280x200", vanished: "No such file", garbage: "",
          torn: "", empty: "", a_folder: "Is a directory"}


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda f: f.__name__)
def test_a_faulty_clip_is_named_and_the_rest_goes_on(tmp_path, spoil):
    bad = write(tmp_path / "corpus", 1, "CASME II", [PORTRAIT] * 3)
    table = make_table([write(tmp_path / "corpus", 0), bad, write(tmp_path / "corpus", 3)])
    spoil(bad["frames"])
    with pytest.warns(UserWarning, match="1 of 3 clips were left out: see .*problems.csv"):
        made = prepare(table, QUICK, tmp_path / "cache", workers=1, progress=False)
    problems = read_problems(made.folder)
    assert len(problems) == 1 and problems.clip_id[0] == "CASME II/s01/clip1"
    assert FAULTS[spoil] in problems.problem[0] and problems.what_to_do[0]
    assert problems.file[0].startswith("s01/clip1/img"), problems.file[0]
    assert str(tmp_path) not in problems.problem[0]  # the folder can be moved and compared
    sound = table[table.clip_id != problems.clip_id[0]]
    alone = quiet(sound.reset_index(drop=True), tmp_path / "other")
    for name in made.arrays: np.testing.assert_array_equal(made[name], alone[name])
    assert list(made.clips.clip_id) == list(alone.clips.clip_id)


def test_a_fault_is_not_looked_for_again(tmp_path, clips, computed, monkeypatch):
    write(tmp_path / "corpus", 1, frames=[texture(1), texture(1, 40), texture(1)])
    quiet(clips, tmp_path / "cache")
    monkeypatch.setattr(room, "read_frames", None)  # would fail if it were called
    shutil.rmtree(tmp_path / "cache/prepared")
    assert len(read_problems(quiet(clips, tmp_path / "cache").folder)) == 1


def test_a_repaired_clip_comes_back(tmp_path, clips):
    path = clips.frames[1][5]
    sound = path.read_bytes()
    path.write_bytes(b"")
    assert len(quiet(clips, tmp_path / "cache").clips) == 3
    path.write_bytes(sound)
    assert len(quiet(clips, tmp_path / "cache").clips) == 4


def test_a_frame_that_vanishes_half_way_costs_its_clip_alone(tmp_path, clips, monkeypatch):
    original, doomed = room.read_frames, clips.frames[2][5]
    def read(job):
        frames = original(job)
        if job.clip_id.endswith("clip1"): doomed.unlink(missing_ok=True)
        return frames
    monkeypatch.setattr(room, "read_frames", read)
    made = quiet(clips, tmp_path / "cache")
    problems = read_problems(made.folder)
    assert list(problems.clip_id) == [clips.clip_id[2]] and "No such file" in problems.problem[0]
    assert len(made.clips) == 3


@pytest.mark.parametrize("when", ["before it is read", "after it was read"])
def test_a_frame_that_changes_half_way_is_taken_as_it_is_in_the_end(
        tmp_path, clips, monkeypatch, when):
    original, path = room.read_frames, clips.frames[2][5]
    other = texture(77)
    def read(job):
        mine = job.clip_id == clips.clip_id[2]
        if mine and when == "before it is read": cv2.imwrite(str(path), other)
        frames = original(job)
        if mine and when == "after it was read": cv2.imwrite(str(path), other)
        return frames
    monkeypatch.setattr(room, "read_frames", read)
    made = quiet(clips, tmp_path / "cache")
    monkeypatch.undo()
    calm = quiet(clips, tmp_path / "calm")
    assert made.key == calm.key and content(made.folder) == content(calm.folder)


def test_with_nothing_left_there_is_no_folder_and_the_reasons_are_told(tmp_path, clips):
    for frames in clips.frames: frames[5].unlink()
    with pytest.raises(ValueError, match="(?s)no clip is left.*clip0: No such file.*clip3"):
        quiet(clips, tmp_path / "cache")
    assert not list((tmp_path / "cache/prepared").iterdir())


def test_a_frame_that_the_table_lacks_is_named(tmp_path, clips):
    clips.frames[1].pop(9)
    assert len(quiet(clips, tmp_path / "cache").clips) == 4  # nobody asked for the offset
    wanted = "flow", "magnified", "flow2"
    problems = read_problems(quiet(clips, tmp_path / "cache", arrays=wanted).folder)
    assert "its offset, frame 9, is not in the table" in problems.problem[0]
    clips.loc[2, "apex"] = pd.NA
    assert "it has no apex" in set(read_problems(quiet(clips, tmp_path / "cache").folder).problem)


def test_grey_and_sixteen_bits_are_prepared_as_their_eight_bits(tmp_path):
    grey = [np.roll(texture(0)[..., 0], shift, 1) for shift in (0, 1, 0)]
    kinds = {"colour": [np.stack([f] * 3, -1) for f in grey], "grey": grey,
             "sixteen": [f.astype(np.uint16) * 257 for f in grey]}
    made = [quiet(make_table([write(tmp_path / name, 0, frames=frames)]), tmp_path / "cache",
                  arrays=("flow", "magnified", "pair")) for name, frames in kinds.items()]
    for name in ("flow", "magnified", "pair"):
        for other in made[1:]: np.testing.assert_array_equal(made[0][name], other[name])


def test_identical_frames_have_no_flow(tmp_path):
    frames = texture(0), np.zeros((48, 48, 3), np.uint8)
    table = make_table([write(tmp_path / "corpus", i, frames=[f] * 3)
                        for i, f in enumerate(frames)])
    for backend in ("torch", "opencv"):
        config = replace(QUICK, flow=FlowConfig(backend=backend))
        made = quiet(table, tmp_path / "cache", config, arrays=("flow", "magnified", "flow2"))
        assert (made.flow == 0).all() and (made["flow2"] == 0).all()


def test_an_unknown_array_is_refused(tmp_path, clips):
    with pytest.raises(ValueError, match="'pair', 'sequence'; got 'flow3'"):
        quiet(clips, tmp_path / "cache", arrays=("flow3",))


def test_ten_frames_begin_with_the_onset(tmp_path, clips):
    made = quiet(clips, tmp_path / "cache", arrays=("flow", "pair", "sequence"))
    assert made["sequence"].shape == (len(clips), 10, QUICK.size, QUICK.size)
    weights = np.array([0.299, 0.587, 0.114])
    onset = np.einsum("c,nchw->nhw", weights, made["pair"][:, 0].astype(float))
    assert abs(made["sequence"][:, 0] - onset).max() <= 1.5  # by rounding alone
    assert made.key_of(("sequence",)) != made.key_of(("pair",))


# -- a full disk ------------------------------------------------------------------------------

@pytest.mark.parametrize("where", ["a part", "an array", "the last file"])
def test_a_full_disk_is_named_and_what_is_finished_is_kept(
        tmp_path, clips, computed, monkeypatch, where):
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, "No space left on device")
    calls, force, write = [], os.fsync, folders.write_atomic
    def nearly_full(handle):
        if not stat.S_ISREG(os.fstat(handle).st_mode): return force(handle)
        calls.append(handle)
        if len(calls) == 8:
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            full()
        return force(handle)
    def last(path, data): return full() if path.name == "meta.json" else write(path, data)
    if where == "a part": monkeypatch.setattr(files.os, "fsync", nearly_full)
    if where == "an array": monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    if where == "the last file": monkeypatch.setattr(folders, "write_atomic", last)
    cache = tmp_path / "cache"
    with pytest.raises(OSError, match="the disk is full below .*make room and start again") as said:
        quiet(clips, cache)
    assert said.value.errno == errno.ENOSPC
    assert not list(cache.glob("*/.*.tmp")) and not list((cache / "prepared").iterdir())
    monkeypatch.undo()
    kept = {p.name: p.stat().st_mtime_ns for p in (cache / "parts").iterdir()}
    assert len(kept) == (7 if where == "a part" else 12)
    made = quiet(clips, cache)
    assert kept.items() <= {p.name: p.stat().st_mtime_ns
                            for p in (cache / "parts").iterdir()}.items()
    assert content(made.folder) == content(quiet(clips, tmp_path / "calm").folder)


def test_a_cache_that_may_not_be_written_is_named(tmp_path, clips, monkeypatch):
    def refused(*args, **kwargs): raise PermissionError(errno.EACCES, "Permission denied", "cache")
    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(PermissionError, match="cache may not be written: set MFDAN_CACHE"):
        quiet(clips, tmp_path / "cache")


def test_a_damaged_part_is_named(tmp_path, clips):
    made = quiet(clips, tmp_path / "cache")
    shutil.rmtree(made.folder)
    part = sorted((tmp_path / "cache/parts").glob("flow-*"))[0]
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{part.name} is damaged .*delete it and start again"):
        quiet(clips, tmp_path / "cache")


def test_what_killed_runs_left_is_swept_after_a_day(tmp_path, clips):
    store = tmp_path / "cache/parts"
    store.mkdir(parents=True)
    for name, age in (("young", 60), ("old", 2 * 86400)):
        (store / f".{name}.npz.1.tmp").write_bytes(b"")
        os.utime(store / f".{name}.npz.1.tmp", (time.time() - age,) * 2)
    quiet(clips, tmp_path / "cache")
    assert [p.name for p in store.glob(".*.tmp")] == [".young.npz.1.tmp"]


# -- computed once ----------------------------------------------------------------------------

def test_one_changed_frame_recomputes_one_clip(tmp_path, clips, computed):
    first = quiet(clips, tmp_path / "cache", arrays=("flow", "magnified", "pair"))
    assert len(computed) == 4 * 3
    computed.clear()
    image = read_image(clips.frames[2][5])
    image[20:24, 20:24] ^= 255
    Image.fromarray(image).save(clips.frames[2][5])
    again = quiet(clips, tmp_path / "cache", arrays=("flow", "magnified", "pair"))
    assert sorted(computed) == [(k, "clip2") for k in ("flow", "magnified", "pair")]
    assert again.key != first.key
    for name in first.arrays:
        same = [(first[name][i] == again[name][i]).all() for i in range(4)]
        assert same[0] and same[1] and same[3]
        assert not same[2]


@pytest.mark.parametrize("changes, kinds", [
    (dict(factors=(0, 1, 3)), {"magnified"}),
    (dict(flow=FlowConfig(backend="torch", setting="standard")), {"flow", "flow2"}),
    (dict(flow=FlowConfig(backend="opencv", setting="fast")), {"flow", "flow2"}),
    (dict(size=42), {"flow", "flow2", "magnified", "pair"}),
    (dict(align=AlignConfig(margin=0.2)), {"flow", "flow2", "magnified", "pair"}),
    (dict(), set())])
def test_a_changed_setting_recomputes_what_depends_on_it(
        tmp_path, clips, computed, changes, kinds):
    both = dict(arrays=("flow", "magnified", "pair", "flow2"))
    first = quiet(clips[:1], tmp_path / "cache", **both)
    computed.clear()
    again = quiet(clips[:1], tmp_path / "cache", replace(QUICK, **changes), **both)
    assert {kind for kind, _ in computed} == kinds
    assert (again.key == first.key) == (not changes)


def test_a_name_says_what_was_read_and_not_where_or_in_which_order(tmp_path, clips, computed):
    first = quiet(clips, tmp_path / "cache")
    computed.clear()
    shutil.copytree(tmp_path / "corpus", tmp_path / "moved")
    moved = clips.copy()
    moved["frames"] = [{n: Path(str(p).replace("/corpus/", "/moved/")) for n, p in f.items()}
                       for f in clips.frames]
    assert quiet(moved[::-1], tmp_path / "cache").folder == first.folder and not computed
    assert content(quiet(moved, tmp_path / "fresh").folder) == content(first.folder)


def test_one_clip_more_computes_one_clip(tmp_path, clips, computed):
    quiet(clips, tmp_path / "cache")
    computed.clear()
    more = make_table([write(tmp_path / "corpus", i) for i in range(5)])
    assert len(quiet(more, tmp_path / "cache").clips) == 5
    assert sorted(computed) == [("flow", "clip4"), ("magnified", "clip4")]


def test_an_incomplete_folder_is_refused(tmp_path, clips):
    made = quiet(clips, tmp_path / "cache")
    (made.folder / "magnified.npy").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match="magnified"):
        load_prepared(made.folder)


# -- what is computed -------------------------------------------------------------------------

def test_rows_are_what_the_rooms_below_give(tmp_path):
    frames = [PORTRAIT, np.roll(PORTRAIT, 2, 1), PORTRAIT]
    record = write(tmp_path / "corpus", 0, "CASME II", frames)
    config = replace(QUICK, size=56, flow=FlowConfig(setting="fast"))
    wanted = "flow", "magnified", "pair"
    made = quiet(make_table([record]), tmp_path / "cache", config, arrays=wanted)
    once, small = (fit_alignment(PORTRAIT, "CASME II", size=s) for s in (224, 56))
    onset, apex = (warp(f, once, 224) for f in frames[:2])  # both by the onset's transform
    flow = resize_flow(tvl1(onset, apex, setting="fast"), 56)
    expected = np.concatenate([flow, strain(flow)[None]]).astype(np.float16)
    np.testing.assert_array_equal(made.flow[0], expected)
    pair = np.stack([warp(f, small, 56).transpose(2, 0, 1) for f in frames[:2]])
    np.testing.assert_array_equal(made["pair"][0], pair)
    np.testing.assert_array_equal(made.magnified[0], pair)  # factors 0 and 1
    matrix = made.clips.loc[0, ["a00", "a01", "a02", "a10", "a11", "a12"]].to_numpy(float)
    np.testing.assert_allclose(matrix.reshape(2, 3), small)


def test_a_transform_a_frame_turns_noise_into_motion(tmp_path):
    rng = np.random.default_rng(3)
    frames = [np.clip(PORTRAIT + rng.normal(0, 6, PORTRAIT.shape), 0, 255).astype(np.uint8)
              for _ in range(3)]
    table = make_table([write(tmp_path / "corpus", 0, "CASME II", frames)])
    config = replace(QUICK, size=224)
    once = quiet(table, tmp_path / "cache", config)
    each = quiet(table, tmp_path / "cache", replace(config, align=AlignConfig(per_frame=True)))
    still, moved = (np.linalg.norm(p.flow[0, :2], axis=0).mean() for p in (once, each))
    assert moved > 3 * still, (still, moved)


def test_the_number_of_processes_changes_nothing(tmp_path, clips):
    clips.frames[3][5].unlink()
    one, two = (quiet(clips, tmp_path / f"{n}", workers=n) for n in (1, 2))
    assert content(one.folder) == content(two.folder)


# -- processes of their own -------------------------------------------------------------------

def start(code, *args):
    "Run a piece of this module in a process of its own."
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" \
           f"import test_prepare as t\nfrom pathlib import Path\n{code}"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], text=True,
                            stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(process):
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out.strip().splitlines()[-1]


def test_two_runs_at_once_give_the_same_folder(tmp_path, clips):
    code = """
root, cache, flag = map(Path, sys.argv[1:])
clips = t.write_clips(root / "of its own" / str(t.os.getpid()), 6)
(cache / f"ready{t.os.getpid()}").touch()
while len(list(cache.glob("ready*"))) < 2: t.time.sleep(0.01)
print(t.quiet(clips, cache).folder)"""
    cache = tmp_path / "cache"
    cache.mkdir()
    runs = [start(code, tmp_path, cache, "") for _ in range(2)]
    folders = {finish(run) for run in runs}
    assert len(folders) == 1 and len(list((cache / "prepared").iterdir())) == 1
    calm = quiet(write_clips(tmp_path / "calm", 6), tmp_path / "calm cache")
    assert content(Path(folders.pop())) == content(calm.folder)
    assert len(list((cache / "parts").iterdir())) == 6 * 3  # and nothing temporary is left


def test_peak_memory_does_not_grow_with_the_clips(tmp_path):
    code = """
import resource
n, root = int(sys.argv[1]), Path(sys.argv[2])
clips = t.make_table([t.write(root / "corpus", i, frames=[t.texture(i)] * 3) for i in range(n)])
config = t.replace(t.QUICK, size=224, factors=tuple(range(12)))
made = t.quiet(clips, root / "cache", config, arrays=("flow", "magnified", "pair"))
assert len(made.clips) == n
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"""
    peaks = [float(finish(start(code, n, tmp_path / str(n)))) for n in (5, 20)]
    size = 20 * (12 + 2) * 3 * 224**2 / 2**20  # of the larger arrays, in MiB
    assert peaks[1] - peaks[0] < 0.15 * size, (peaks, size)
