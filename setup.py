"""Read everything from settings.ini, so that a dependency is written once."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ini = ConfigParser(delimiters=["="])
ini.read(Path(__file__).with_name("settings.ini"), encoding="utf-8")
cfg = ini["DEFAULT"]


def listed(key: str) -> list[str]:
    return [line.strip() for line in cfg[key].splitlines() if line.strip()]


setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"],
    author=cfg["author"], author_email=cfg["author_email"], license="MIT",
    keywords=cfg["keywords"].split(), python_requires=f">={cfg['min_python']},<3.14",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["mfdan", "mfdan.*"]), include_package_data=True,
    package_data={"mfdan": ["assets/*", "assets/*/*"]}, zip_safe=False,
    install_requires=listed("requirements"),
    extras_require={key.removesuffix("_requirements"): listed(key) for key in cfg
                    if key.endswith("_requirements")},
    entry_points={"console_scripts": listed("console_scripts"),
                  "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
)
