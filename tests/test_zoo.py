"""Every member of the zoo passes the same check; what a user may get wrong is said in one line."""
import pickle
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mfdan.core.config import TrainConfig
from mfdan.core.files import file_digest
from mfdan.network.settings import MFDANConfig
from mfdan.results.method_run import method_by, method_table
from mfdan.results.runs import variant
from mfdan.training.fold import train_fold
from mfdan.training.method_check import check_method, count_parameters, known_clips, sources_of
from mfdan.training.plan import plan
from mfdan.zoo.contract import find_method, method_names
from mfdan.zoo.ststnet import STSTNet, STSTNetConfig, load_into

MEMBERS = method_names()
OWN = {"mfdan": (MFDANConfig(image_size=28, width=12, heads=(1, 2), mergings=0),
                 TrainConfig(epochs=10, batch=8, lr=3e-3))}  # without a tiny profile of its own
PUBLISHED = {"ststnet": 1683, "off_apexnet": 2_664_475, "dual_inception": 6_449_867,
             "off_tanet": 59_403}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_passes_the_check(name):
    assert check_method(find_method(name), OWN.get(name)) == []


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_stands_in_both_profiles(name):
    method = find_method(name)
    for profile in ("paper", "quick"):
        config, train = method.profiles[profile]
        assert type(config) is method.config
        assert variant(profile, "composite", method=name).train == replace(train, seed=0)
        for wanted in method.inputs(config):
            assert wanted.problem({"paper": 224, "quick": 56}[profile]) == ""
    own = {"no publication", find_method("mfdan").cites}
    assert sources_of(method) or method.cites in own  # a guess throughout, or said elsewhere


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    assert count_parameters(find_method(name)) == PUBLISHED[name]
    assert find_method(name).config.parameters == PUBLISHED[name]


def test_the_list_of_methods_names_them_all():
    table = method_table().frame
    assert set(MEMBERS) <= set(table.method)
    said = dict(zip(table.method, table.sees))
    assert said["mmnet"] == "pair 224 px" and said["majority"] == "nothing"


@pytest.mark.parametrize("said, nearest", [("STSTNet2", "ststnet"), ("offapexnet", "off_apexnet"),
                                           ("rcn", "rcn_"), ("HTNET", "htnet"),
                                           ("fmanet", "fmanet_inspired"), ("VGG", "vgg16")])
def test_an_unknown_name_is_answered_with_the_nearest(said, nearest):
    with pytest.raises(ValueError, match=f"no method '{said}'; nearest: .*{nearest}"):
        method_by(said)


class Harm:
    "What a pickle may do."
    def __init__(self, file): self.file = file
    def __reduce__(self): return Path.touch, (self.file,)


def test_weights_of_another_layout_or_a_pickle_are_one_line(tmp_path):
    network = STSTNet(STSTNetConfig(), 3)
    torch.save({"fc.weight": Harm(tmp_path / "harmed")}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="code.pth is no file of weights alone"):
        load_into(network, tmp_path / "code.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Harm(tmp_path / "harmed"), 2))
    with pytest.raises(ValueError, match="bare.pth is no file of weights alone"):
        load_into(network, tmp_path / "bare.pth")
    assert not (tmp_path / "harmed").exists()  # nothing of them was run
    weights = network.state_dict()
    del weights["conv2.bias"]
    save_file(weights, tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match="another layout than STSTNet's: conv2.bias differs"):
        load_into(network, tmp_path / "cut.safetensors")
    (tmp_path / "short.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match="short.safetensors is no file of weights alone"):
        load_into(network, tmp_path / "short.safetensors")


@pytest.mark.parametrize("name", ["vgg16", "googlenet", "slstt"])
def test_a_file_of_weights_is_the_one_that_is_meant_or_refused_in_one_line(name, tmp_path):
    method = find_method(name)
    config = method.profiles["tiny"][0]
    torch.manual_seed(0)
    network = method.make(config, 3)
    body = network.encoder if name == "slstt" else network
    file = tmp_path / "body.safetensors"
    save_file(body.state_dict(), file)
    digest = file_digest(file)[:8]
    torch.manual_seed(1)
    read = method.make(replace(config, weights=f"{file}@{digest}"), 3)
    first = next(key for key in body.state_dict() if key.endswith("weight"))
    own = read.encoder if name == "slstt" else read
    assert torch.equal(own.state_dict()[first], body.state_dict()[first])
    with pytest.raises(ValueError, match=f"write .*body.safetensors@{digest}"):
        method.make(replace(config, weights=str(file) + "@00000000"), 3)
    torch.save({"a": Harm(tmp_path / "harmed")}, tmp_path / "code.pth")
    bad = f"{tmp_path / 'code.pth'}@{file_digest(tmp_path / 'code.pth')[:8]}"
    with pytest.raises(ValueError, match="code.pth is no file of weights alone"):
        method.make(replace(config, weights=bad), 3)
    assert not (tmp_path / "harmed").exists()
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    other = f"{tmp_path / 'other.safetensors'}@{file_digest(tmp_path / 'other.safetensors')[:8]}"
    with pytest.raises(ValueError, match="another layout than"):
        method.make(replace(config, weights=other), 3)


@pytest.mark.parametrize("name, lacks", [("cof_inspired", "flow2"), ("slstt", "sequence"),
                                         ("fgrl_auf", "pair"), ("causalnet", "flow2")])
def test_a_folder_without_an_array_says_which(name, lacks):
    clips = known_clips(size=28)
    clips = replace(clips, arrays={k: v for k, v in clips.arrays.items() if k != lacks})
    run = variant("quick", "composite", method=name)
    with pytest.raises(KeyError, match=f"not '{lacks}': prepare again with arrays"):
        train_fold(clips, plan(clips, run)[0], run.model, run.train)


def test_a_corpus_without_its_input_is_refused_before_anything_is_trained():
    clips = known_clips(size=28)
    with pytest.raises(RuntimeError, match="holds 28 px, the method wants 56: prepare again"):
        plan(clips, variant("quick", "composite", method="mmnet"))


def test_settings_are_numbers_and_words_that_a_record_can_keep():
    for name in MEMBERS:
        for field in fields(find_method(name).config):
            default = getattr(find_method(name).profiles["paper"][0], field.name)
            assert isinstance(default, (int, float, str, tuple)), (name, field.name)


def test_the_same_seed_gives_the_same_network():
    for name in ("ststnet", "htnet", "off_tanet"):
        config = find_method(name).profiles["tiny"][0]
        two = []
        for _ in range(2):
            torch.manual_seed(3)
            two.append(find_method(name).make(config, 3).state_dict())
        assert all(torch.equal(value, two[1][key]) for key, value in two[0].items())
