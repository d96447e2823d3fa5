"""README.md is nbs/index.ipynb as Markdown: its text, its code, and the outputs stored in it.

`python .ci/readme.py` writes README.md and nbs/index_files/; `make export` calls it, and a guard
checks that both agree with the notebook.
"""
import base64
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


def shown(output, name: str) -> tuple[str, dict[str, bytes]]:
    "One output as Markdown, and the picture that it needs."
    data = output.get("data", {})
    if "image/png" in data:
        picture = base64.b64decode(data["image/png"])
        return f"![](nbs/index_files/{name}.png)", {f"{name}.png": picture}
    if "text/markdown" in data: return data["text/markdown"], {}
    text = output.get("text") or data.get("text/plain", "")
    return (f"```text\n{text.rstrip()}\n```" if text.strip() else ""), {}


def readme(root: Path = ROOT) -> tuple[str, dict[str, bytes]]:
    "The text of README.md, and its pictures by name."
    parts, images = [], {}
    for cell in nbformat.read(root / "nbs/index.ipynb", as_version=4).cells:
        if cell.cell_type == "markdown":
            # links are relative to nbs/ in the notebook, and to the root in the README
            parts.append(re.sub(r"\]\((?!https?:|#|\.\./)([^)]+)\)", r"](nbs/\1)", cell.source)
                         .replace("](../", "]("))
            continue
        if re.match(r"#\|\s*hide", cell.source): continue
        if not re.match(r"#\|\s*echo:\s*false", cell.source):
            parts.append(f"```python\n{cell.source.strip()}\n```")
        for i, output in enumerate(cell.get("outputs", [])):
            text, made = shown(output, f"{cell.id}_{i}")
            images |= made
            if text: parts.append(text)
    note = "<!-- made from nbs/index.ipynb by `make export`; edit that -->\n\n"
    return note + "\n\n".join(parts) + "\n", images


def main() -> None:
    text, images = readme()
    (ROOT / "README.md").write_text(text, encoding="utf-8")
    folder = ROOT / "nbs/index_files"
    folder.mkdir(exist_ok=True)
    for stale in set(p.name for p in folder.iterdir()) - images.keys(): (folder / stale).unlink()
    for name, content in images.items(): (folder / name).write_bytes(content)


def disagreements(root: Path = ROOT) -> list[str]:
    "What differs between the notebook and the files made from it."
    text, images = readme(root)
    advice = "run `make export` and commit"
    found = []
    if (root / "README.md").read_text(encoding="utf-8") != text:
        found.append(f"README.md: does not agree with nbs/index.ipynb; {advice}")
    folder = root / "nbs/index_files"
    have = {p.name: p.read_bytes() for p in folder.iterdir()} if folder.exists() else {}
    found += [f"nbs/index_files/{name}: does not agree with nbs/index.ipynb; {advice}"
              for name in sorted(have.keys() | images.keys()) if have.get(name) != images.get(name)]
    return found


if __name__ == "__main__":
    sys.exit(main())
