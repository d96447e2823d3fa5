"""Every link of a built site leads somewhere: a file that is there, an anchor that the page has.

`python .ci/links.py FOLDER` prints what does not, one line each, and fails if there is any.
"""
import os
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

GOES = {"href", "src", "data", "poster"}


class Page(HTMLParser):
    "What a page links to, and the anchors that it has."

    def __init__(self, text: str):
        super().__init__()
        self.targets, self.anchors = [], {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        for name, value in attributes:
            if name == "id" or name == "name" and tag == "a":
                self.anchors.add(value)
            elif name in GOES and value:
                self.targets.append(value)
            elif name == "srcset" and value:
                self.targets += [part.split()[0] for part in value.split(",")]


def broken(site: Path) -> list[str]:
    "One line for each link to nothing; other sites are not asked."
    files = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    pages = {name: Page((site / name).read_text(encoding="utf-8"))
             for name in sorted(files) if name.endswith(".html")}
    found = []
    for name, page in pages.items():
        for target in dict.fromkeys(page.targets):
            to = urlsplit(target)
            if to.scheme or to.netloc: continue
            goal = os.path.normpath(os.path.join(os.path.dirname(name), unquote(to.path)))
            if not to.path: goal = name
            if goal not in files: goal = os.path.normpath(os.path.join(goal, "index.html"))
            where = f"{name}: links to {target}"
            if to.path.startswith("/"):
                found.append(f"{where}, which no copy of the site has")
            elif goal not in files:
                found.append(f"{where}, which is not there")
            elif goal in pages and unquote(to.fragment) not in pages[goal].anchors:
                found.append(f"{where}, whose page has no such anchor")
    return found


def main(site: Path) -> int:
    found = broken(site)
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
