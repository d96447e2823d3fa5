"""The ground: one list of dependencies, an installable wheel, an environment script that speaks."""
import ast
import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import mfdan
from mfdan.core.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[1]


def settings():
    ini = configparser.ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini")
    return ini["DEFAULT"]


def listed(key): return [Requirement(r) for r in settings()[key].split("\n") if r.strip()]


def pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {name.lower().replace("_", "-"): version for line in lines if not line.startswith("#")
            for name, version in [line.split("==")]}


KEYS = [key for key in settings() if key.endswith("requirements")]


@pytest.mark.parametrize("requirement", [r for key in KEYS for r in listed(key)], ids=str)
def test_constraints_pin_every_requirement_within_its_range(requirement):
    version = pinned()[requirement.name.lower().replace("_", "-")]
    assert version in requirement.specifier


def test_only_one_opencv_is_asked_for():
    assert [n for n in pinned() if n.startswith("opencv")] == ["opencv-contrib-python"]
    assert not any("torchvision" in n for n in pinned())


def test_conda_environment_agrees_with_the_settings():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *plain, last = environment["dependencies"]
    assert environment["channels"][0] == "conda-forge" and plain[1:] == ["pip"]
    low, high = re.fullmatch(r"python>=(3\.\d+),<(3\.\d+)", plain[0]).groups()
    assert low == settings()["min_python"]
    assert f'<{high}' in (ROOT / "setup.py").read_text()
    constraint, package = last["pip"]
    assert constraint == "--constraint constraints.txt"
    extras = re.fullmatch(r"--editable \.\[(.*)\]", package)[1].split(",")
    assert {f"{e}_requirements" for e in extras} <= set(KEYS)
    script = (ROOT / ".ci/env.sh").read_text()
    assert re.search(r"dev\) spec='\.\[(.*)\]'", script)[1].split(",") == extras
    named = {e for group in re.findall(r"'\.\[(.*)\]'", script) for e in group.split(",")}
    assert named == {key.removesuffix("_requirements") for key in KEYS[1:]} == EXTRAS.keys()


def imported():
    "Module of others -> files of the package that import it."
    found = defaultdict(set)
    for path in (ROOT / "mfdan").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names: found[name.split(".")[0]].add(path.relative_to(ROOT))
    return {name: found[name] for name in found if name not in {*sys.stdlib_module_names, "mfdan"}}


def test_what_is_imported_is_asked_for_and_an_extra_knows_its_modules():
    "Whoever lacks a module is told which extra brings it; what is always there belongs to none."
    brings = importlib.metadata.packages_distributions()
    asked = {key: {r.name.lower().replace("_", "-") for r in listed(key)} for key in KEYS}
    homes = {module: name for name, extra in EXTRAS.items() for module in extra.modules}
    for module, files in imported().items():
        packages = {name.lower().replace("_", "-") for name in brings.get(module, ["dlib-bin"])}
        always = bool(packages & asked["requirements"])
        assert always != (module in homes), (module, files)
    for module, extra in homes.items():
        packages = {name.lower().replace("_", "-") for name in brings.get(module, ())}
        by_another = module in ("nbclient", "nbformat", "ipykernel")  # jupyterlab needs them
        assert not packages or by_another or packages & asked[f"{extra}_requirements"], module


def test_the_readme_lists_the_extras():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "README.md").read_text(), re.M)
    assert dict(rows) == {name: extra.purpose for name, extra in EXTRAS.items()}


MISSING = {"film": ("cv2", "film", "new.mp4"), "prepare": ("cv2", "prepare", "--profile", "smoke"),
           "reproduce": ("papermill", "reproduce"), "recognise": ("dlib", "recognise", "a.png",
                                                                   "b.png", "--model", "m")}


@pytest.mark.parametrize("case", MISSING)
def test_what_an_extra_would_bring_is_said_in_one_line(tmp_path, case):
    module, *words = MISSING[case]
    code = (f"import sys; sys.modules[{module!r}] = None; from mfdan.cli import main;"
            f"sys.exit(main({words!r}))")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                          text=True, check=False, timeout=120,
                          env=os.environ | {"MFDAN_CACHE": str(tmp_path / "cache")})
    extra = "notebooks" if module == "papermill" else "faces"
    assert done.stderr.startswith(f"mfdan: {module} is not installed: pip install 'mfdan[{extra}]'")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_installed_is_what_is_pinned():
    "A test run speaks for the pinned set only if that is what runs."
    different = {name: (version, found) for name, version in pinned().items()
                 for found in [_installed(name)] if found and found.split("+")[0] != version}
    assert different == {}


def _installed(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # docs and dask are extras
        return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel of a copy of the tree, so that nothing is left in it."
    tree = tmp_path_factory.mktemp("tree")
    for name in ("setup.py", "settings.ini", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(ROOT / "mfdan", tree / "mfdan", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", tree / "dist",
                    tree], check=True)
    return next((tree / "dist").glob("*.whl"))


def modules():
    "`cli`, `pixels.flow`, ...: every module of every room."
    paths = (p.relative_to(ROOT / "mfdan") for p in (ROOT / "mfdan").rglob("*.py"))
    return {".".join(p.with_suffix("").parts) for p in paths if p.stem[0] != "_"}


PROBE = """
import importlib, pathlib, sys
import mfdan
assert pathlib.Path(mfdan.__file__).is_relative_to({site!r}), mfdan.__file__
for name in {modules!r}: importlib.import_module("mfdan." + name)
from mfdan.core.files import asset
for name in {assets!r}: assert asset(name).stat().st_size > 0
"""


def probe(site, without=()):
    assets = sorted(p.name for p in (ROOT / "mfdan/assets").iterdir() if p.is_file())
    return PROBE.format(site=str(site), modules=sorted(modules() - {*without}), assets=assets)


def test_wheel_is_complete(wheel, tmp_path):
    "Every module imports and every asset is found, from the wheel alone."
    with zipfile.ZipFile(wheel) as archive: archive.extractall(tmp_path)
    subprocess.run([sys.executable, "-c", probe(tmp_path)], cwd=tmp_path, check=True,
                   env=os.environ | {"PYTHONPATH": str(tmp_path)})


def own_code():
    "The lines that the README offers for a reader's own code, and what they are to give."
    text = (ROOT / "README.md").read_text().partition("## In your own code")[2]
    *lines, last = text.partition("```python\n")[2].partition("```")[0].strip().splitlines()
    return "\n".join([*lines, f"assert {last}.startswith('UF1 on CASME II/p01: ')"])


def test_the_readmes_own_code_needs_the_package_alone():
    "It is run by the next test, from the wheel; here its names are looked up."
    names = {alias.name for node in ast.walk(ast.parse(own_code()))
             if isinstance(node, ast.ImportFrom) for alias in node.names}
    modules_ = [node.module for node in ast.walk(ast.parse(own_code()))
                if isinstance(node, ast.ImportFrom)]
    assert {"planted", "train_fold", "plan"} <= names
    assert all(module.split(".")[0] == "mfdan" for module in modules_)


@pytest.mark.slow
def test_wheel_in_an_empty_environment(wheel, tmp_path):
    "As a user installs it: alone, then with the extras of the README; the command answers."
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    bin_ = tmp_path / "env/bin"
    pip = [bin_ / "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, wheel], check=True)
    subprocess.run([bin_ / "python", "-c", own_code()], cwd=tmp_path, check=True)
    said = subprocess.run([bin_ / "mfdan", "--help"], capture_output=True, text=True, check=True)
    assert "reproduce" in said.stdout
    said = subprocess.run([bin_ / "mfdan", "film", tmp_path / "a.mp4"], capture_output=True,
                          text=True, check=False)
    assert "pip install 'mfdan[faces]'" in said.stderr and said.returncode == 1
    subprocess.run([*pip, f"{wheel}[faces,notebooks]"], check=True)
    subprocess.run(  # Triton comes with torch for CUDA, if at all
        [bin_ / "python", "-c", probe(tmp_path / "env", without=["pixels.flow_gpu"])],
        cwd=tmp_path, check=True)


@pytest.mark.parametrize("name", mfdan.__all__)
def test_what_the_package_offers_is_there(name):
    "And no room or module of the top bears its name, which would hide it once imported."
    thing = getattr(mfdan, name)
    assert callable(thing) and thing.__name__ == name and name in dir(mfdan)
    assert name not in {module.split(".")[0] for module in modules()}


def test_what_the_package_does_not_offer_is_named():
    with pytest.raises(AttributeError, match="offers no 'tvl2'; it offers .*tvl1, .*by its room"):
        mfdan.tvl2  # noqa: B018


def test_the_package_alone_loads_nothing_heavy():
    said = subprocess.run([sys.executable, "-c", "import mfdan, sys; print(*sys.modules)"],
                          capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "cv2", "numpy", "mfdan.pixels"} & set(said)


def test_the_export_keeps_the_package_as_it_is_written(tmp_path):
    "All of mfdan/ is exported but `__init__.py`, of which nbdev touches the version alone."
    (tmp_path / "mfdan").mkdir()
    (tmp_path / "nbs").mkdir()
    shutil.copy(ROOT / "settings.ini", tmp_path)
    text = (ROOT / "mfdan/__init__.py").read_text()
    stale = re.sub("__version__ = .*", '__version__ = ""', text)
    (tmp_path / "mfdan/__init__.py").write_text(stale)
    subprocess.run([Path(sys.executable).with_name("nbdev_export")], cwd=tmp_path, check=True,
                   capture_output=True)
    assert (tmp_path / "mfdan/__init__.py").read_text() == text


def test_help_costs_less_than_a_second_of_cpu(tmp_path):
    command = [sys.executable, "-c", "from mfdan.cli import main; main(['--help'])"]
    before = os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user \
        - before.children_system
    assert used < 1, f"{used:.2f} s"


def environment_script(tmp_path, **env):
    "Run a copy of .ci/env.sh with another PATH."
    tree = tmp_path / "tree"
    (tree / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci/env.sh", tree / ".ci")
    for name in ("settings.ini", "setup.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tree / name)
    return subprocess.run(["sh", ".ci/env.sh", "base"], cwd=tree, capture_output=True, text=True,
                          env=os.environ | env)


def fake(folder, name, body):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_an_unsupported_python_is_said_in_one_line(tmp_path):
    tools = tmp_path / "bin"
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        fake(tools, name, 'case "$1" in --version) echo Python 3.9.1 ;; *) exit 1 ;; esac')
    for name in ("sh", "cat", "cksum", "cut", "dirname"):
        (tools / name).symlink_to(shutil.which(name))
    done = environment_script(tmp_path, PATH=str(tools), PYTHON="")
    assert done.returncode == 1
    assert done.stderr == ("mfdan: needs Python 3.11, 3.12 or 3.13 (found: Python 3.9.1); "
                           "name one with PYTHON=/path/to/python3.12\n")


def python_with(tmp_path, pip):
    "An interpreter whose pip does as told."
    return fake(tmp_path / "bin", "python3", f'''
case "$1 $2" in
  "-c import"*) exit 0 ;;
  "-m venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip") {pip} ;;
esac''')


def test_an_index_that_answers_badly_once_is_asked_again(tmp_path):
    python = python_with(tmp_path, "if [ -e asked ]; then exit 0; fi; touch asked; exit 1")
    done = environment_script(tmp_path, PYTHON=str(python))
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.parametrize("log, says", [
    ("WARNING: Retrying: NewConnectionError: Failed to establish", "is the network up?"),
    ("error: command 'gcc' failed: No such file or directory", "needs a compiler"),
])
def test_a_failed_installation_says_why(tmp_path, log, says):
    python = python_with(tmp_path, f'echo "{log}"; exit 1')
    done = environment_script(tmp_path, PYTHON=str(python))
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("mfdan: ") and says in last, done.stderr
