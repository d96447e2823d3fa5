"""A gallery of the site: the figures of the products, and the first picture of every page."""
import base64
import io
import os
from pathlib import Path

import house
import nbformat
from PIL import Image

from mfdan.results.catalogue import all_products

WIDTH = 480  # pixels of a picture in a card


def small(picture: Image.Image, target: Path) -> None:
    "A picture at a card's width, on white."
    picture = picture.convert("RGBA")
    picture.thumbnail((WIDTH, 4 * WIDTH))
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB").save(
        target, quality=85)


def first_picture(nb: nbformat.NotebookNode) -> Image.Image | None:
    for cell in nb.cells:
        for output in cell.get("outputs", ()):
            if stored := output.get("data", {}).get("image/png"):
                return Image.open(io.BytesIO(base64.b64decode(stored)))
    return None


def title_of(nb: nbformat.NotebookNode) -> str:
    return nb.cells[0].source.splitlines()[0].removeprefix("# ")


def card(title: str, picture: Path, page: str) -> str:  # page: as a table of contents knows it
    return (f":::{{grid-item-card}} {title}\n:img-top: {picture}\n:img-alt: {title}\n"
            f":link: {page}\n:link-type: doc\n:::")


def grid(cards: list[str]) -> str:
    return "\n".join(["::::{grid} 1 2 3 3", ":gutter: 2", "", *cards, "::::"])


def product_cards(folder: Path, site: Path) -> list[str]:
    "The figures of a run, each with the page that made it."
    cards = []
    for product in all_products():
        file = folder / f"{product.name}.png"
        if product.kind != "figure" or not file.exists(): continue
        there = Path("gallery") / f"{product.name}.jpg"
        small(Image.open(file), site / there)
        cards.append(card(product.title, there, f"paper/{product.notebook}"))
    return cards


def room_cards(root: Path, room: str, site: Path) -> list[str]:
    cards = []
    for path in house.in_rooms(root):
        if path.parent.name != room: continue
        nb = nbformat.read(path, as_version=4)
        picture = first_picture(nb)
        if picture is None: continue
        page = os.path.splitext(path.relative_to(root / "nbs"))[0]
        there = Path("gallery") / f"{page}.jpg"
        small(picture, site / there)
        cards.append(card(title_of(nb), there, page))
    return cards


def gallery(root: Path, site: Path) -> str:
    "The page; its pictures are written beside it."
    parts = ["# Gallery", "What the pages draw. A picture leads to the page that makes it."]
    for folder in sorted((root / "paper_figures/synthetic").iterdir()):
        cards = product_cards(folder, site)
        if not cards: continue
        corpus = folder.name.split("-")[0]
        parts += [f"## Products, on the embedded corpus {corpus}",
                  "Made-up people: these figures test machinery, and say nothing about "
                  "micro-expressions.", grid(cards)]
    for room in house.order(root, "rooms"):
        if cards := room_cards(root, room, site):
            parts += [f"## {room.capitalize()}", grid(cards)]
    return "\n\n".join(parts) + "\n"
