"""Adding a method touches one place: a file outside the package goes the whole road."""
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mfdan
from mfdan.core.config import FitConfig
from mfdan.data.planted import planted
from mfdan.data.prepared import load_prepared, save_prepared
from mfdan.results.runs import variant
from mfdan.training.loso import run_loso
from mfdan.training.plan import Run, fold_key, plan
from mfdan.training.predictions import audit, load_network, load_predictions
from mfdan.zoo.contract import METHODS, build, find_method, load_method, settings_of

PACKAGE = Path(mfdan.__file__).parent

METHOD = '''
from dataclasses import dataclass

import torch
from torch import nn

from mfdan.core.config import TrainConfig
from mfdan.zoo.contract import method
from mfdan.zoo.inputs import FlowImage
from pooling_of_a_stranger import pooled


@dataclass(frozen=True)
class StrangerConfig:
    "Settings, each with its source."
    width: int = 8  # our guess


@method(
    "stranger", title="Stranger", cites="nobody", config=StrangerConfig,
    inputs=lambda config: (FlowImage(28, scale="clip", channels=("strain", "v", "u")),),
    profiles=dict.fromkeys(("paper", "quick"), (StrangerConfig(), TrainConfig(
        epochs=20, batch=16, lr=5e-3, optimizer="adamw", loss="ce"))),
)
class Stranger(nn.Module):
    "One convolution."

    def __init__(self, config, classes):
        super().__init__()
        self.look = nn.Conv2d(3, config.width, 7, stride=4)
        self.head = nn.Linear(9 * config.width, classes)

    def forward(self, flow):
        return self.head(pooled(self.look(flow / 128 - 1).relu()))
'''
HELPER = '''
from torch.nn import functional as F


def pooled(x):
    return F.adaptive_avg_pool2d(x, 3).flatten(1)
'''


def package_state() -> dict:
    "Every file of the package, by its hash."
    return {str(p.relative_to(PACKAGE)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


@pytest.fixture
def stranger(tmp_path):
    (tmp_path / "stranger.py").write_text(METHOD)
    (tmp_path / "pooling_of_a_stranger.py").write_text(HELPER)
    before = package_state()
    yield load_method(tmp_path / "stranger.py")
    del METHODS["stranger"]
    assert package_state() == before  # whatever a test does with it


@pytest.fixture
def data(tmp_path):
    "Two subjects whose flow alone is there: nobody asked for faces."
    made = planted(n_subjects=2, per_subject=9, size=56, signal=4.0)
    return save_prepared(replace(made, arrays={"flow": made.flow}), tmp_path / "prepared")


def test_a_method_from_a_file_goes_the_whole_road(stranger, data, tmp_path):
    run = variant("quick", "composite", method="stranger")
    assert stranger.arrays(run.model) == ("flow",)
    store = tmp_path / "store"
    summary = run_loso(data, [run], store, workers=2, progress=False, keep_weights=True)
    assert (summary.trained, summary.failed) == (2, []), summary
    assert run_loso(load_prepared(data.folder), [run], store, progress=False).reused == 2
    assert audit(store, data, run).findings.tolist() == ["", ""]
    said = load_predictions(store, data, run)
    assert (said.true == said.pred).mean() > 0.8  # a motion was planted
    network, record = load_network(store, data, run, said.clip_id[0])
    assert type(network).__name__ == "Stranger" and record["method"] == "stranger"
    assert record["train"]["optimizer"] == "adamw" and record["statistics"].keys() == {
        "class_counts"}
    json.dumps(record)


def test_a_change_in_its_helper_invalidates_its_folds_and_no_others(stranger, data, tmp_path):
    own = variant("quick", "composite", method="stranger")
    other = variant("quick", "composite", method="linear")
    fold = plan(data, own)[0]
    keys = fold_key(data, fold, own), fold_key(data, fold, other)
    helper = tmp_path / "pooling_of_a_stranger.py"
    helper.write_text(HELPER.replace("\n\ndef", "\n\n# three by three\ndef"))
    assert (fold_key(data, fold, own), fold_key(data, fold, other)) == keys
    helper.write_text(HELPER.replace("(x, 3)", "(x, 2)"))
    assert fold_key(data, fold, own) != keys[0]
    assert fold_key(data, fold, other) == keys[1]


def test_arrays_that_it_does_not_read_are_no_part_of_its_key(stranger, data):
    run = variant("quick", "composite", method="stranger")
    fold = plan(data, run)[0]
    keyed = replace(data, meta=data.meta | {"keys": {"flow": "a", "magnified": "b"}})
    more = replace(data, meta=data.meta | {"keys": {"flow": "a", "magnified": "c", "pair": "d"}})
    other = replace(data, meta=data.meta | {"keys": {"flow": "z", "magnified": "b"}})
    assert fold_key(keyed, fold, run) == fold_key(more, fold, run) != fold_key(other, fold, run)


def test_what_a_method_asks_for_is_refused_in_one_line_where_it_is_not_there(stranger, data):
    with pytest.raises(KeyError, match="prepare again with arrays=\\('magnified',\\)"):
        data["magnified"]
    small = planted(n_subjects=2, per_subject=9, size=50)
    with pytest.raises(RuntimeError, match="holds 50 px, the method wants 28: prepare again"):
        plan(small, variant("quick", "composite", method="stranger"))


@pytest.mark.parametrize("name", ["mfdan", "linear", "forest", "majority"])
def test_every_method_of_the_package_keeps_the_contract(name, tmp_path):
    "Two folds, audited, in both profiles' settings; the same again to the bit."
    method, data = find_method(name), planted(n_subjects=2, per_subject=6, size=56, signal=4.0)
    for profile in ("paper", "quick"): assert type(settings_of(name, profile)[0]) is method.config
    config, train = settings_of(name, "smoke")
    run = Run(name, "composite", config, train)
    for store in (tmp_path / "a", tmp_path / "b"):
        assert run_loso(data, [run], store, workers=1, progress=False).trained == 2
        assert audit(store, data, run).findings.tolist() == ["", ""]
    one, two = (load_predictions(tmp_path / s, data, run) for s in "ab")
    assert one.equals(two)
    probabilities = one[[c for c in one if c.startswith("p_")]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert method.is_network == (not isinstance(train, FitConfig))
    if method.is_network: assert build(config, 5)(*[
        batch for batch in _batches(data, method, config)]).shape == (2, 5)


def _batches(data, method, config):
    "Two clips as a method wants them."
    import torch

    from mfdan.training.bank import Bank
    bank = Bank(data, method.inputs(config))
    rows = torch.arange(2)
    return bank.batch(rows, rows, bank.divisors({w.array: (1.0, 1.0) for w in bank.inputs}))


def test_a_name_that_is_taken_and_a_file_without_a_method(stranger, tmp_path):
    (tmp_path / "second.py").write_text(METHOD)
    with pytest.raises(ValueError, match="'stranger' exists already, in stranger.py"):
        load_method(tmp_path / "second.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match="it defines 0"): load_method(tmp_path / "empty.py")
    with pytest.raises(FileNotFoundError, match="no such file"): load_method(tmp_path / "no.py")
