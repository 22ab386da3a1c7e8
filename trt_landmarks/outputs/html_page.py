"""The frame of a page that is complete in itself, and its tables, which a click sorts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from trt_landmarks import __version__

#: What a cell holds: text, which is escaped, or a number.
Cell = str | int
#: Where there is no figure.
DASH = "–"

# The policy forbids what the page never does, whatever a name in it may say: ask another host for anything.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto; max-width: 1180px;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.counts { font-size: 1.1rem; margin: .2rem 0 .6rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; }
dt { color: #666; } dd { margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e4e4e4; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
th { cursor: pointer; background: #f6f6f6; position: sticky; top: 0; white-space: nowrap; }
th[aria-sort=ascending]::after { content: " ▲"; } th[aria-sort=descending]::after { content: " ▼"; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid #ddd; border-radius: 6px; overflow: hidden; }
figure img { width: 100%; display: block; background: #000; }
figcaption { padding: .45rem .6rem; overflow-wrap: anywhere; }
.none { background: #111; color: #aaa; padding: 2.2rem 1rem; text-align: center; }
.failed { color: #a40000; padding-left: 1.2rem; overflow-wrap: anywhere; }
.plot { max-width: 100%; display: block; margin: .5rem 0; }
footer { margin-top: 2.5rem; color: #777; }
"""

_SCRIPT = """
for (const head of document.querySelectorAll("th")) head.onclick = () => {
  const down = head.getAttribute("aria-sort") === "ascending", at = head.cellIndex;
  const body = head.closest("table").tBodies[0], text = row => row.cells[at].textContent;
  const value = row => parseFloat(text(row));
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const numbers = head.classList.contains("number"), sign = down ? -1 : 1;
  const none = row => numbers && isNaN(value(row));
  body.append(...Array.from(body.rows).sort((a, b) => none(a) - none(b) || sign * (
    numbers ? value(a) - value(b) || 0 : text(a).localeCompare(text(b), undefined, {numeric: true}))));
};
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page.

    Args:
        title: text, which is escaped.
        parts: HTML, which is not.
    """
    return (
        f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<meta name='viewport' content='width=device-width'><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<footer>trt-landmarks {escape(__version__)}</footer><script>{_SCRIPT}</script></body></html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table; columns that hold numbers only are set to the right and sorted as numbers."""
    numeric = [bool(rows) and all(_is_number(row[at]) for row in rows) for at in range(len(header))]

    def line(cells: Sequence[Cell], tag: str) -> str:
        marks = (" class='number'" if number else "" for number in numeric)
        filled = (f"<{tag}{mark}>{escape(str(cell))}</{tag}>" for cell, mark in zip(cells, marks, strict=True))
        return f"<tr>{''.join(filled)}</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<div class='scroll'><table><thead>{line(header, 'th')}</thead>\n<tbody>{body}</tbody></table></div>"


def _is_number(cell: Cell) -> bool:
    if isinstance(cell, str) and cell != DASH:
        try:
            float(cell)
        except ValueError:
            return False
    return True
