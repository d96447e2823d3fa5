"""MFDAN, executable: `mfdan.tvl1`, `mfdan.MFDAN`, `mfdan.run_loso` and the like, or room by room.

Written by hand, alone in this folder; the export only keeps the version. A name is imported when
it is first asked for, so that `import mfdan` costs nothing.
"""
from importlib import import_module

__version__ = "0.1.0"

_ROOMS = {
    "read_root": "data.root", "check_root": "data.check", "load_prepared": "data.prepared",
    "planted": "data.planted", "embedded_corpus": "corpus.write",
    "tvl1": "pixels.flow", "strain": "pixels.strain", "magnify": "pixels.magnet",
    "prepare": "pixels.prepare", "MFDAN": "network.mfdan", "run_loso": "training.loso",
    "uf1": "scores.metrics", "uar": "scores.metrics", "recognise": "video.recognise",
}
__all__ = list(_ROOMS)


def __getattr__(name: str):
    if name not in _ROOMS:
        raise AttributeError(f"mfdan offers no {name!r}; it offers {', '.join(_ROOMS)}, and all "
                             "else by its room: from mfdan.ROOM.MODULE import ...")
    thing = globals()[name] = getattr(import_module(f"mfdan.{_ROOMS[name]}"), name)
    return thing


def __dir__() -> list[str]: return sorted({*globals(), *_ROOMS})
