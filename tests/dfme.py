"""A layout of one's own: a database that the package does not know, described in one file.

    mfdan check ROOT --database ./dfme.py

DFME (USTC) has 7,526 clips of 671 subjects, filmed at 500, 300 and 200 frames a second in three
parts. Its layout is not public; folders and columns here are an example to be changed, not facts.
"""
from mfdan.data.database import Column, CropRule, Database, Sheet


def mend(cells: dict) -> dict | None:
    "What is odd about a row: other kinds are passed over, an offset of 0 means that it is missing."
    if cells["kind"] != "micro": return None
    return {**cells, "offset": cells["offset"] or None}


DFME = Database(
    name="DFME", cites="Zhao et al., 2023", rate=500,
    layouts=("part_A/{subject}/{clip}/{frame:05d}.jpg",),  # the path of one frame
    subject=r"p(\d+)", spelling="p{:03d}",  # of its folder, and in the clip table
    clip=r"[a-z]+_\d+", frame=r"(\d+)\.jpg",
    sheet=Sheet("DFME_labels.xlsx", r"dfme.*\.xlsx", mend=mend, columns=(
        Column("subject", "subject"), Column("clip", "name"), Column("onset", "onset"),
        Column("apex", "apex"), Column("offset", "offset"), Column("label", "emotion"),
        Column("kind", "kind", "micro"))),
    emotions=("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"),
    native=("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"),
    crop=CropRule("landmarks"),
    notes=(("its layout is an example, not its owners'", "mend this file"),),
)
