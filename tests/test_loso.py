"""Leave-one-subject-out under faults, leaks and bad input: what is finished stays."""
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mfdan.core import files, sources
from mfdan.core.config import FitConfig, TrainConfig
from mfdan.data.planted import planted
from mfdan.data.prepared import save_prepared
from mfdan.data.protocols import MEGC2019, classes_of
from mfdan.network.settings import MFDANConfig
from mfdan.scores.choice import choice_runs, inner_choice
from mfdan.scores.intervals import bootstrap_interval
from mfdan.scores.metrics import confusion, uf1
from mfdan.scores.oracle import oracle
from mfdan.training import audit as auditing
from mfdan.training import bank as banks
from mfdan.training import cluster, epochs, recorded, schedule
from mfdan.training import fold as folding
from mfdan.training import store as stores
from mfdan.training.audit import LeakError
from mfdan.training.bank import FoldError
from mfdan.training.checkpoint import Checkpoint
from mfdan.training.fold import train_fold
from mfdan.training.loso import run_loso
from mfdan.training.plan import Run, fold_key, plan
from mfdan.training.predictions import audit, load_folds, load_predictions
from mfdan.training.step import Step
from mfdan.training.store import keep_fold, read_fold
from mfdan.zoo.contract import build, method_of

CLASSES = classes_of("megc2019", "composite")
TINY = MFDANConfig(image_size=28, width=12, heads=(1, 2), mergings=0)
N = 5  # subjects, and so folds
SHORT = TrainConfig(epochs=3, batch=8, lr=1e-3)
RUN = Run("tiny", "composite", TINY, SHORT)
LONG = replace(RUN, name="long", train=replace(SHORT, epochs=6))


def go(data, store, *runs, **how):
    "Train in this process, unless told otherwise."
    return run_loso(data, list(runs or [RUN]), store, **{"workers": 1, "progress": False} | how)


def one_line(text) -> str:
    "A message to a user is one line, and not a long one."
    text = str(text)
    assert text and "\n" not in text and len(text) < 400, text
    return text


def same_folds(store, other, data, run=RUN):
    "Two stores hold the same results, to the last bit, networks included."
    def bare(record): return {k: v for k, v in record.items() if k not in ("seconds", "commit")}
    ours, theirs = (load_folds(s, data, run) for s in (store, other))
    assert [bare(r) for r in ours] == [bare(r) for r in theirs]


@pytest.fixture(scope="module")
def data():
    return planted(n_subjects=N, per_subject=6, size=28, signal=3.0)


@pytest.fixture(scope="module")
def calm(data, tmp_path_factory):
    "The store of an undisturbed run, one fold after the other in one process."
    store = tmp_path_factory.mktemp("calm")
    assert go(data, store, RUN, LONG).trained == 2 * N
    return store


# --- workers that die ---


def counted_once(store, made, run, data):
    "Each fold has one file, one line in the log, and is counted once."
    keys = {fold_key(data, fold, run) for fold in plan(data, run)}
    assert (made.folds, made.trained, made.reused, made.failed) == (len(keys), len(keys), 0, [])
    assert {p.stem for p in store.glob("*.json")} == keys
    logged = [line.split()[2] for line in (store / "log.txt").read_text().splitlines()
              if " right " in line]
    assert sorted(logged) == sorted(keys)


def in_background(call):
    "Start a call in a thread; its result is appended to the list."
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def under_way(store, thread, seconds=60):
    "Wait until a fold has trained an epoch and is not finished."
    end = time.monotonic() + seconds
    while time.monotonic() < end and thread.is_alive():
        if list(store.glob("partial/*.part")): return
        time.sleep(0.01)
    raise AssertionError("no fold was seen half done")


def test_a_dask_worker_is_killed(data, calm, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True,
                                  dashboard_address=None, silence_logs="ERROR") as cluster, \
            distributed.Client(cluster) as client:
        before = client.run(os.getpid)
        thread, results = in_background(lambda: go(
            data, tmp_path, LONG, backend="dask", scheduler=cluster.scheduler_address, every=0))
        under_way(tmp_path, thread)
        busy = next(worker for worker, tasks in client.processing().items() if tasks)
        os.kill(before[busy], signal.SIGKILL)
        thread.join()
        assert before[busy] not in client.run(os.getpid).values()  # it was one of ours, and died
    counted_once(tmp_path, results[0], LONG, data)
    same_folds(tmp_path, calm, data, LONG)


def test_a_local_worker_is_killed(data, calm, tmp_path):
    from joblib.externals.loky import reusable_executor
    thread, results = in_background(lambda: go(data, tmp_path, LONG, workers=2, every=0))
    under_way(tmp_path, thread)
    os.kill(next(iter(reusable_executor._executor._processes)), signal.SIGKILL)
    thread.join()
    assert "a worker died; its fold is trained again" in results[0].notes
    counted_once(tmp_path, results[0], LONG, data)
    same_folds(tmp_path, calm, data, LONG)


def test_a_dead_scheduler(data, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster.connect, "__defaults__", (1.0,))
    half = plan(data, RUN)[:3]
    with monkeypatch.context() as first:
        first.setattr(stores, "plan", lambda *_: half)
        assert go(data, tmp_path).trained == 3
    with pytest.raises(ConnectionError) as error:
        go(data, tmp_path, backend="dask", scheduler="tcp://127.0.0.1:9")
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in one_line(error.value)
    made = go(data, tmp_path)
    assert (made.trained, made.reused) == (N - 3, 3)


def start(module, *arguments):
    "A process of Dask's in a group of its own."
    return subprocess.Popen([sys.executable, "-m", f"distributed.cli.{module}", *arguments],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            start_new_session=True)


@pytest.mark.slow
@pytest.mark.parametrize("victims", ["all workers", "the scheduler"])
def test_a_cluster_falls(data, calm, tmp_path, monkeypatch, victims):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster.connect, "__defaults__", (3.0,))
    import socket
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = f"tcp://127.0.0.1:{port}"

    def workers(): return [start("dask_worker", address, "--nthreads", "1", "--no-dashboard")
                           for _ in range(2)]

    head = start("dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
    hands = workers()
    monkeypatch.setattr(cluster.connect, "__defaults__", (30.0,))

    def call():
        try:
            return go(data, tmp_path, LONG, backend="dask", scheduler=address, every=0)
        except ConnectionError as error:
            return error

    thread, results = in_background(call)
    try:
        under_way(tmp_path, thread)
        cluster.connect.__defaults__ = (3.0,)
        for process in hands if victims == "all workers" else [head]:
            os.killpg(process.pid, signal.SIGKILL)
        if victims == "all workers": hands += workers()
        thread.join()
    finally:
        for process in [head, *hands]:
            if process.poll() is None: os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if victims == "all workers":
        assert results[0].trained == N, results[0]
    else:
        assert "no Dask scheduler answers" in one_line(results[0])
        assert go(data, tmp_path, LONG).failed == []
    same_folds(tmp_path, calm, data, LONG)


# --- killed while writing, stopped in the middle of a fold ---

STALL = """
import os, stat, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_loso
from mfdan.core import files
whole, moment = files.os.fsync, {moment!r}

def stall(*_):
    Path({mark!r}).touch()
    time.sleep(600)

def half(number):
    if stat.S_ISDIR(os.fstat(number).st_mode): return whole(number)
    os.ftruncate(number, os.fstat(number).st_size // 2)
    stall()

if moment == "half written": files.os.fsync = half
else: files.os.replace = stall
from mfdan.data.prepared import load_prepared
test_loso.go(load_prepared({data!r}), Path({store!r}))
"""


@pytest.mark.parametrize("moment", ["half written", "not yet renamed"])
def test_killed_while_a_fold_is_written(data, calm, tmp_path, moment):
    save_prepared(data, tmp_path / "data")
    store, mark = tmp_path / "store", tmp_path / "mark"
    code = STALL.format(tests=str(Path(__file__).parent), moment=moment, mark=str(mark),
                        data=str(tmp_path / "data"), store=str(store))
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while not mark.exists() and process.poll() is None: time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert list(store.glob(".*.tmp")) and not list(store.glob("*.json"))
    assert go(data, store).trained == N
    same_folds(store, calm, data)


def stop_after(monkeypatch, most):
    "Let a training be interrupted when it looks at the held-out subject for the nth time."
    seen, real = [], epochs.predict

    def predict(*args):
        seen.append(1)
        if len(seen) > most: raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(epochs, "predict", predict)


@pytest.mark.parametrize("optimizer", ["adan", "adamw"])
def test_a_fold_goes_on_where_it_was_left(data, tmp_path, monkeypatch, optimizer):
    settings = replace(SHORT, epochs=6, optimizer=optimizer)
    fold = plan(data, RUN)[0]
    whole = train_fold(data, fold, TINY, settings)
    waits = Checkpoint(tmp_path / "a.part", "a", every=0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 4)
        train_fold(data, fold, TINY, settings, checkpoint=waits)
    steps, real = [], Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda *a: (steps.append(1), real(*a))[1])
    rest = train_fold(data, fold, TINY, settings, checkpoint=waits)
    assert len(steps) == 2 * whole["batches"]["shape"][1]  # two epochs, not six
    assert rest | {"seconds": 0} == whole | {"seconds": 0}


@pytest.mark.parametrize("damage", ["cut", "one bit", "another fold's"])
def test_a_bad_state_of_a_fold_is_passed_over(data, tmp_path, monkeypatch, damage):
    fold = plan(data, RUN)[0]
    waits = Checkpoint(tmp_path / "a.part", "b" if damage == "another fold's" else "a", every=0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 2)
        train_fold(data, plan(data, RUN)[1], TINY, SHORT, checkpoint=waits)
    state = bytearray(waits.path.read_bytes())
    if damage == "cut": state = state[:-100]
    if damage == "one bit": state[len(state) // 2] ^= 1
    waits.path.write_bytes(state)
    again = train_fold(data, fold, TINY, SHORT, checkpoint=Checkpoint(waits.path, "a", every=0))
    assert again["weights"] == train_fold(data, fold, TINY, SHORT)["weights"]


# --- leaks ---


def subject_on_both_sides(patch, data):
    "A clip of the held-out subject stands on the training side."
    def leaky(prepared, run, real=stores.plan):
        return [replace(fold, train=fold.train + fold.test[:1], test=fold.test[1:])
                for fold in real(prepared, run)]
    patch.setattr(stores, "plan", leaky)
    patch.setattr(folding, "check_fold", lambda *_: None)
    return RUN, "on both sides"


def held_out_index_in_a_batch(patch, data):
    "The schedule draws a held-out row, in training and in the audit's own copy alike."
    def leaky(fold, *args, real=folding.make_schedule):
        made = real(fold, *args)
        made.rows[0, 0, 0] = fold.test[0]
        return made

    class Open(Step):
        def __init__(self, network, bank, fold, settings):
            super().__init__(network, bank, fold, settings)
            self.target = torch.tensor(fold.labels)

    patch.setattr(folding, "make_schedule", leaky)
    patch.setattr(auditing, "make_schedule", leaky)
    patch.setattr(folding, "make_step", lambda model, *rest: Open(build(model), *rest[:3]))
    return RUN, "held-out clips in training batches"



def normalised_with_the_held_out(patch, data):
    patch.setattr(banks, "flow_scale", lambda power, rows, real=banks.flow_scale: real(
        power, range(len(power))))
    return RUN, "flow statistics"


def weighted_with_the_held_out(patch, data):
    def leaky(prepared, fold, *args, real=folding.make_record):
        record = real(prepared, fold, *args)
        record["statistics"]["class_counts"] = np.bincount(fold.labels).tolist()
        return record
    patch.setattr(folding, "make_record", leaky)
    return RUN, "class counts"


def resampled_with_the_held_out(patch, data):
    "Each class is brought up to the largest of all clips, not of the training side."
    def leaky(labels, draw):
        most = int(np.bincount(plan(data, RUN)[0].labels).max())
        own = [(labels == c).nonzero().squeeze(-1) for c in labels.unique()]
        order = torch.cat([rows[torch.arange(most) % len(rows)] for rows in own])
        return order[torch.randperm(len(order), generator=draw)]
    patch.setattr(schedule, "oversample", leaky)  # the audit draws with the same function
    return replace(RUN, train=replace(SHORT, resample=True)), "the classes were shown"


def best_epoch_scored(patch, data):
    def leaky(step, schedule, fold, *args, real=folding.run_epochs):
        trace = real(step, schedule, fold, *args)
        true = torch.tensor(fold.labels)[list(fold.test)]
        best = max(range(len(trace.curve)), key=lambda e: (trace.curve[e].argmax(1) == true).sum())
        trace.curve.append(trace.curve[best])
        return trace
    patch.setattr(folding, "run_epochs", leaky)
    return RUN, "not the last of 3 epochs was scored"


LEAKS = [subject_on_both_sides, held_out_index_in_a_batch, normalised_with_the_held_out,
         weighted_with_the_held_out, resampled_with_the_held_out, best_epoch_scored]


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.__name__)
def test_a_planted_leak_is_neither_kept_nor_scored(data, tmp_path, monkeypatch, leak):
    with monkeypatch.context() as patch:
        run, found = leak(patch, data)
        made = go(data, tmp_path, run)
    assert (made.trained, len(made.failed)) == (0, N)
    for line in made.failed:
        assert line.startswith("leak: composite without") and found in line, line
        assert line.count("composite without") == 1 or leak is subject_on_both_sides \
            or leak is held_out_index_in_a_batch, line  # by its own rule, and no other
    assert not list(tmp_path.glob("*.json"))
    with pytest.raises(FileNotFoundError, match="5 of 5 folds have no result"):
        load_predictions(tmp_path, data, run)


def test_a_held_out_label_cannot_be_asked_for(data, monkeypatch):
    "Before any audit: the step has no label of a held-out row, and stops."
    fold = plan(data, RUN)[0]
    with monkeypatch.context() as patch:
        held_out_index_in_a_batch(patch, data)
        patch.setattr(folding, "make_step", lambda model, *rest: Step(build(model), *rest[:3]))
        with pytest.raises((RuntimeError, IndexError), match="index"):
            train_fold(data, fold, TINY, SHORT)


def test_honest_folds_pass_and_a_record_changed_later_does_not(data, calm, tmp_path):
    resampled = replace(RUN, train=replace(SHORT, resample=True))
    go(data, tmp_path, RUN, resampled, replace(RUN, shuffled=1), replace(RUN, groups=2),
       replace(RUN, without="CASME II/p02"))
    for run in (RUN, resampled):
        assert audit(tmp_path, data, run).findings.tolist() == [""] * N
    key = fold_key(data, plan(data, RUN)[2], RUN)
    record, _ = read_fold(tmp_path, key)
    record["batches"]["seen"][record["clip_ids"][0]] = 1
    keep_fold(tmp_path, key, record)  # with a digest of its own: no torn file
    with pytest.raises(LeakError, match="held-out clips in training batches: CASME II/p03/c01"):
        load_predictions(tmp_path, data, RUN)
    assert [bool(line) for line in audit(tmp_path, data, RUN).findings] == [False] * 2 + \
        [True] + [False] * (N - 3)


# --- it learns what is there, and nothing else ---


def score(store, data, run):
    table = load_predictions(store, data, run)
    return table, uf1(confusion(table.true, table.pred, CLASSES))


def test_a_strong_signal_is_learnt(data, calm):
    _, found = score(calm, data, LONG)
    assert found > 0.9


def chance(table, rng, level, within=None, draws=2000):
    "The interval of scores of these predictions when the true labels are dealt anew."
    groups = [np.arange(len(table))] if within is None else \
        [rows.to_numpy() for rows in table.groupby(within).groups.values()]
    pred, scores = table.pred.to_numpy(), []
    for _ in range(draws):
        true = table.true.to_numpy().copy()
        for rows in groups: true[rows] = rng.permutation(true[rows])
        scores.append(uf1(confusion(true, pred, CLASSES)))
    return np.quantile(scores, ((1 - level) / 2, (1 + level) / 2))


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_shuffled_within_subjects_score_at_chance(data, tmp_path, seed):
    "Given the predictions every deal is as likely as the one we had, so the interval is exact."
    rng, clips = np.random.default_rng(seed), data.clips.copy()
    clips["emotion"] = clips.groupby("subject").emotion.transform(rng.permutation)
    go(replace(data, clips=clips), tmp_path, LONG)
    table, found = score(tmp_path, replace(data, clips=clips), LONG)
    low, high = chance(table, rng, 0.99, within="subject")
    assert low <= found <= high < 0.7, (found, low, high)


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_shuffled_as_a_run_does_score_no_better_than_chance(data, tmp_path, seed):
    """Here the held-out subject's share of a class is missing from the training side, so a
    network that learns the shares alone does worse than chance: only better would be a leak."""
    run = replace(LONG, shuffled=seed)
    go(data, tmp_path, run)
    table, found = score(tmp_path, data, run)
    assert found <= chance(table, np.random.default_rng(seed), 0.99)[1] < 0.7
    assert bootstrap_interval(table, CLASSES).low <= 1 / 3


# --- other protocols ---


@pytest.mark.parametrize("scope", ["CASME II", "SAMM", "SMIC-HS"])
def test_native_classes_from_the_clips_to_the_score(tmp_path, scope):
    classes = classes_of("native", scope)
    data = planted(n_subjects=3, per_subject=6, size=28, databases=(scope,))
    clips = data.clips.assign(emotion=[classes[i % len(classes)] for i in range(len(data))])
    clips.loc[0, "emotion"] = "fear"  # has no label here, and takes no part
    made, run = replace(data, clips=clips), replace(RUN, scope=scope, protocol="native")
    assert go(made, tmp_path, run).trained == 3
    table = load_predictions(tmp_path, made, run)
    assert list(table.clip_id) == list(clips.clip_id[1:])
    assert list(table.true) == list(clips.emotion[1:]) and set(table.pred) <= set(classes)
    assert [c for c in table if c.startswith("p_")] == [f"p_{c}" for c in classes]
    assert confusion(table.true, table.pred, classes).sum() == len(data) - 1


def test_a_whole_database_is_left_out(tmp_path):
    data = planted(n_subjects=6, per_subject=6, size=28, signal=3.0, databases=MEGC2019.databases)
    run = replace(LONG, leave_out="database")
    folds = plan(data, run)
    assert [fold.held_out for fold in folds] == sorted(MEGC2019.databases)
    for fold in folds:
        assert set(data.clips.database.iloc[list(fold.test)]) == {fold.held_out}
        assert fold.held_out not in set(data.clips.database.iloc[list(fold.train)])
    assert go(data, tmp_path, run).trained == 3
    table, found = score(tmp_path, data, run)
    assert len(table) == len(data) and found > 0.9


# --- bad input ---


def refused(data, store, run, saying):
    "Refused in one line; what was finished is found again."
    with pytest.raises(FoldError) as error: go(data, store, RUN, run)
    assert saying in one_line(error.value)


def test_one_subject_only(data, calm):
    alone = replace(RUN, scope="SAMM")
    refused(data, calm, alone, "leaving one out needs at least two")
    lonely = planted(n_subjects=1, size=28)
    with pytest.raises(FoldError, match="composite: 1 subject with clips"): go(lonely, calm)
    assert go(data, calm).reused == N


def test_a_class_that_only_the_held_out_subject_has(data, calm):
    clips = data.clips.copy()
    clips.loc[(clips.emotion == "surprise") & (clips.subject != "CASME II/p03"), "emotion"] = \
        "disgust"
    refused(replace(data, clips=clips), calm, RUN, "composite without CASME II/p03: no training "
            "clip of class surprise")


def test_a_folder_of_another_size(data, calm):
    refused(data, calm, replace(RUN, model=MFDANConfig()), "holds 28 px, the method wants 224")


def test_a_method_trained_in_another_way():
    with pytest.raises(ValueError) as error: replace(RUN, train=FitConfig())
    assert "mfdan is trained by a TrainConfig, not by a FitConfig" in one_line(error.value)
    with pytest.raises(ValueError) as error: replace(RUN, model=SHORT)
    said = str(error.value)  # and the methods that there are
    assert "TrainConfig is no method's settings" in said and "\n" not in said


def test_a_loss_that_is_no_number(data, tmp_path):
    wild = replace(RUN, name="wild", train=replace(SHORT, lr=1e308))
    made = go(data, tmp_path, wild, RUN)
    assert (made.trained, len(made.failed)) == (N, N)
    for line in made.failed: assert "the loss became nan in epoch 1" in one_line(line)
    assert len(load_predictions(tmp_path, data, RUN)) == 6 * N
    assert "FAILED" in (tmp_path / "log.txt").read_text() and f"{N} failed" in str(made)


def test_weights_lost_in_the_last_step(data, tmp_path, monkeypatch):
    steps, real, each = [], Step.__call__, SHORT.epochs * 3  # 24 clips: three batches

    def step(self, *batch):
        loss = real(self, *batch)
        steps.append(1)
        if len(steps) % each == 0:
            with torch.no_grad(): next(self.network.parameters()).fill_(float("inf"))
        return loss

    monkeypatch.setattr(Step, "__call__", step)
    made = go(data, tmp_path)
    assert len(made.failed) == N and not list(tmp_path.glob("*.json"))
    for line in made.failed: assert "the last step left weights that are not" in one_line(line)


def test_arrays_that_are_not_finite(data, tmp_path):
    flow = np.array(data.flow)
    flow[0, 0, 0, 0] = np.nan
    made = go(replace(data, arrays=data.arrays | {"flow": flow}, meta=data.meta | {"key": "nan"}),
              tmp_path)
    assert (made.trained, len(made.failed)) == (0, N)
    for line in made.failed: assert "not finite; prepare again" in one_line(line)


class Full:
    "A disk with room for some files only."

    def __init__(self, room): self.room, self.real = room, os.fsync

    def __call__(self, number):
        self.room -= stat.S_ISREG(os.fstat(number).st_mode)
        if self.room < 0: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.real(number)


def test_no_disk_for_a_fold(data, calm, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", Full(2))
        with pytest.raises(OSError) as error: go(data, tmp_path)
    line = one_line(error.value)
    assert error.value.errno == errno.ENOSPC and "the disk is full below" in line
    assert "make room and start again; fold '" in line
    assert line.endswith("was not kept, finished folds are")
    assert len(list(tmp_path.glob("*.json"))) == 2 and not list(tmp_path.glob(".*"))
    assert go(data, tmp_path).reused == 2
    same_folds(tmp_path, calm, data)


def test_no_disk_for_an_unfinished_fold(data, tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", Full(0))
    with pytest.raises(OSError) as error: go(data, tmp_path, every=0)
    assert "the unfinished folds were not kept, finished folds are" in one_line(error.value)


def test_out_of_memory_names_a_batch_that_fits(data, tmp_path, monkeypatch):
    real = Step.backward

    def backward(self, rows, *rest):
        if len(rows) > 5: raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return real(self, rows, *rest)

    monkeypatch.setattr(Step, "backward", backward)
    fits = replace(RUN, name="fits", train=replace(SHORT, batch=4))
    made = go(data, tmp_path, RUN, fits)
    assert (made.trained, len(made.failed)) == (N, N)
    for line in made.failed:
        assert "out of memory on cpu with batch 8; batch 4 fits" in one_line(line)
    assert len(load_predictions(tmp_path, data, fits)) == 6 * N


def test_out_of_memory_for_the_arrays(data, tmp_path, monkeypatch):
    def bank(*_): raise MemoryError
    monkeypatch.setattr(cluster, "Bank", bank)
    monkeypatch.setattr(cluster, "_RESIDENT", {})
    made = go(data, tmp_path)
    for line in made.failed: assert "use fewer workers" in one_line(line)
    assert len(made.failed) == N


# --- files that are not what they seem ---


def test_torn_and_foreign_files_are_said_and_replaced(data, calm, tmp_path):
    go(data, tmp_path)
    torn, foreign, good = sorted(tmp_path.glob("*.json"))[:3]
    torn.write_bytes(torn.read_bytes()[:-1])
    foreign.write_bytes(good.read_bytes())
    kept = good.stat().st_mtime_ns
    made = go(data, tmp_path)
    assert (made.trained, made.reused) == (2, N - 2) and good.stat().st_mtime_ns == kept
    assert sorted(made.notes) == sorted([f"{torn.name} is torn; its fold is trained again",
                                         f"{foreign.name} belongs to another fold; its fold is "
                                         "trained again"])
    assert all(note in (tmp_path / "log.txt").read_text() for note in made.notes)
    same_folds(tmp_path, calm, data)


def test_any_changed_byte_is_noticed(calm, tmp_path):
    path = next(calm.glob("*.json"))
    whole, key, rng = path.read_bytes(), path.stem, np.random.default_rng(0)
    for place in rng.integers(len(whole), size=300):
        broken = bytearray(whole)
        broken[place] ^= 1 << int(rng.integers(7))
        (tmp_path / path.name).write_bytes(broken)
        record, problem = read_fold(tmp_path, key)
        same = record == read_fold(calm, key)[0]  # white space, or a number written otherwise
        assert same or (record is None and "trained again" in problem), (place, whole[place])


def test_a_torn_network_is_trained_again(data, tmp_path):
    go(data, tmp_path, keep_weights=True)
    network = sorted(tmp_path.glob("*.safetensors"))[0]
    network.write_bytes(network.read_bytes()[:-4])
    made = go(data, tmp_path, keep_weights=True)
    assert made.trained == 1 and f"{network.name} is torn" in made.notes[0]


# --- nothing stale ---

OTHER = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v + 0.125,
         str: lambda v: v + "x", tuple: lambda v: (*v[:-1], v[-1] + 1)}


NAMED = {"loss": "ce", "optimizer": "adamw"}  # a run refuses names that nobody knows


def changed(settings, name):
    "The same settings with one field changed, whether or not that makes sense."
    made = replace(settings)
    value = getattr(settings, name)
    object.__setattr__(made, name, NAMED.get(name) or OTHER[type(value)](value))
    return made


def test_every_setting_is_part_of_the_key(data):
    "Fields are taken from the classes, so that one added later is asked as well."
    fold = plan(data, RUN)[0]
    runs = [RUN] + [replace(RUN, model=changed(TINY, f.name)) for f in fields(MFDANConfig)]
    runs += [replace(RUN, train=changed(SHORT, f.name)) for f in fields(TrainConfig)]
    assert len({fold_key(data, fold, run) for run in runs}) == len(runs)


def test_every_fact_about_the_data_is_part_of_the_key(data):
    fold, key = plan(data, RUN)[0], fold_key(data, plan(data, RUN)[0], RUN)
    renamed = data.clips.assign(clip_id=data.clips.clip_id.str.replace("c06", "c07"))
    swapped = list(fold.labels)
    swapped[0], swapped[1] = swapped[1], swapped[0]
    others = [
        (replace(data, meta=data.meta | {"key": "other"}), fold),
        (replace(data, clips=renamed), fold),
        (data, replace(fold, labels=tuple(swapped))), (data, replace(fold, train=fold.train[1:])),
        (data, replace(fold, test=fold.test[1:])), (data, replace(fold, protocol="native")),
        (data, replace(fold, classes=fold.classes[::-1]))]
    keys = [fold_key(prepared, other, RUN) for prepared, other in others]
    assert len({key, *keys}) == 1 + len(others)


def test_changed_code_is_another_key(data, monkeypatch):
    fold = plan(data, RUN)[0]
    key = fold_key(data, fold, RUN)
    real = sources.bare_source
    sources.file_source.cache_clear()
    monkeypatch.setattr(sources, "bare_source", lambda text: real(text).replace("0.25", "0.2500"))
    try:
        assert fold_key(data, fold, RUN) != key
    finally:
        sources.file_source.cache_clear()


@pytest.mark.parametrize("change", ["data", "settings"])
def test_a_change_trains_everything_anew(data, calm, tmp_path, change):
    go(data, tmp_path)
    other = planted(N, 6, 28, signal=3.0, seed=1) if change == "data" else data
    run = RUN if change == "data" else replace(RUN, train=replace(SHORT, weight_decay=0.03))
    made = go(other, tmp_path, run)
    assert (made.trained, made.reused) == (N, 0)
    assert go(data, tmp_path).reused == N  # and the old ones are still there
    same_folds(tmp_path, calm, data)


# --- the epoch curve of the held-out subject decides nothing ---


def test_a_lying_curve_changes_no_weight(data, calm, tmp_path, monkeypatch):
    "All looks but the last return noise."
    calls, real = [], epochs.predict

    def lies(step, rows, factor):
        calls.append(1)
        honest = real(step, rows, factor)
        noise = torch.rand(honest.shape, generator=torch.Generator().manual_seed(len(calls)))
        return honest if len(calls) % SHORT.epochs == 0 else noise / noise.sum(1, keepdim=True)

    monkeypatch.setattr(epochs, "predict", lies)
    go(data, tmp_path)
    for one, other in zip(load_folds(tmp_path, data, RUN), load_folds(calm, data, RUN)):
        assert one["curve"][:-1] != other["curve"][:-1]
        for what in ("weights", "prob", "pred", "loss"): assert one[what] == other[what]


def test_a_lying_state_changes_no_weight(data, tmp_path, monkeypatch):
    "The curve inside the state of an unfinished fold is replaced before the fold goes on."
    fold = plan(data, RUN)[0]
    waits = Checkpoint(tmp_path / "a.part", "a", every=0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 2)
        train_fold(data, fold, TINY, SHORT, checkpoint=waits)
    real = Checkpoint.restore

    def restore(self, step):
        trace = real(self, step)
        assert len(trace.curve) == 2
        trace.curve = [torch.full_like(p, 1 / 3) for p in trace.curve]
        return trace

    monkeypatch.setattr(Checkpoint, "restore", restore)
    rest, whole = train_fold(data, fold, TINY, SHORT, checkpoint=waits), \
        train_fold(data, fold, TINY, SHORT)
    assert rest["curve"][0] != whole["curve"][0]
    for what in ("weights", "prob", "pred", "loss"): assert rest[what] == whole[what]


def corrupted(store, to, seed):
    "The same folds, with noise in every epoch of the curve but the last, and digests that fit."
    rng = np.random.default_rng(seed)
    for path in store.glob("*.json"):
        record, _ = read_fold(store, path.stem)
        curve = rng.dirichlet(np.ones(3), (len(record["curve"]) - 1, len(record["pred"])))
        keep_fold(to, path.stem, record | {"curve": [*curve.tolist(), record["curve"][-1]]})


def test_a_lying_store_changes_no_prediction_and_no_choice(tmp_path):
    noisy = planted(n_subjects=4, per_subject=6, size=28, signal=1.0)
    rates, honest = (0.1, 0.6), tmp_path / "honest"
    go(noisy, honest, *choice_runs(noisy, RUN, rates, 2))
    scores, chosen = inner_choice(honest, noisy, RUN, rates, 2)
    run = replace(RUN, model=replace(TINY, dropkey=0.1))
    for seed in range(5):
        lying = tmp_path / str(seed)
        corrupted(honest, lying, seed)
        again, table = inner_choice(lying, noisy, RUN, rates, 2)
        assert again.equals(scores) and table.equals(chosen)
        assert load_predictions(lying, noisy, run).equals(load_predictions(honest, noisy, run))
        assert go(noisy, lying, run).reused == 4
        mean = [oracle(load_folds(s, noisy, run))["last UF1"] for s in (honest, lying)]
        assert not mean[0].equals(mean[1]) and mean[0].iloc[-1] == mean[1].iloc[-1]


class Replayed:
    "What `recorded.Recorded` does, without a GPU: warms up, then works on its own inputs."

    def __init__(self, function, inputs):
        self.function, self.inputs = function, [t.clone() for t in inputs]
        for _ in range(3): function(*self.inputs)

    def __call__(self, *inputs):
        for static, fresh in zip(self.inputs, inputs): static.copy_(fresh)
        return self.function(*self.inputs).clone()


def told(record):
    return {k: v for k, v in record.items() if k not in ("seconds", "engine")}


@pytest.mark.parametrize("optimizer", ["adan", "adamw", "sgd", "adan-pytorch"])
def test_folds_that_share_a_recorded_step_are_what_they_are_alone(data, tmp_path, monkeypatch,
                                                                  optimizer):
    settings = replace(SHORT, optimizer=optimizer, loss="ce")
    folds = plan(data, RUN)[:3]
    bank = banks.Bank(data, method_of(TINY).inputs(TINY))
    alone = [train_fold(data, fold, TINY, settings) for fold in folds]
    monkeypatch.setattr(recorded, "Recorded", Replayed)
    # predictions in batches of another size differ by rounding: the weights must not
    for fold, whole in zip(folds, alone):
        made = train_fold(data, fold, TINY, settings, bank=bank, engine="graph")
        assert (made["weights"], made["loss"]) == (whole["weights"], whole["loss"])
        np.testing.assert_allclose(made["curve"], whole["curve"], atol=1e-5)
        if optimizer != "adan-pytorch":
            waits = Checkpoint(tmp_path / f"{fold.held_out[-3:]}.part", "a", every=0)
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                stop_after(patch, 1)
                train_fold(data, fold, TINY, settings, bank=bank, engine="graph", checkpoint=waits)
            rest = train_fold(data, fold, TINY, settings, bank=bank, engine="graph",
                              checkpoint=waits)
            assert rest["weights"] == whole["weights"]  # resumed in the memory of another fold
    assert len(bank.recorded) == (optimizer != "adan-pytorch")
