"""The report as one HTML file that needs nothing else: tables, figures, the machine, and every doubt."""

from collections.abc import Mapping, Sequence
from html import escape

from qsm_runtime.benching import plots, tables
from qsm_runtime.benching import records as said
from qsm_runtime.benching.records import Record
from qsm_runtime.benching.tables import Table

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #111; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .2rem .5rem; border-bottom: 1px solid #ccc; text-align: right; vertical-align: top; }
th { border-bottom: 2px solid #111; } .word { text-align: left; }
tbody tr:nth-child(even) { background: #f5f5f5; }
.long { min-width: 12rem; } .scroll { overflow-x: auto; }
figure { margin: 1.5rem 0; break-inside: avoid; } figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { max-width: 100%; min-width: 34rem; height: auto; }
.doubt { border-left: 4px solid #D55E00; padding: .3rem .8rem; background: #fdf3ec; }
.note, .machine { color: #444; font-size: .85rem; overflow-wrap: anywhere; }
@media print { body { max-width: none; margin: 0; font-size: 10pt; } table { font-size: 7.5pt; }
  .scroll { overflow: visible; } .long, svg { min-width: 0; } svg { max-width: 85%; }
  tr, figure { break-inside: avoid; } h2 { break-after: avoid; } thead { display: table-header-group; }
  @page { margin: 14mm; } }
"""


def page(records: Sequence[Record], extra: Sequence[Table] = ()) -> str:
    """The HTML text. extra: tables that come first, such as a budget's."""
    parts = [f'<p class="machine">{escape(text)}</p>' for text in said.machines_said(records)]
    when = sorted(r["utc"] for r in records if "utc" in r)
    if when:
        parts.append(f'<p class="note">Measured {escape(when[0])} to {escape(when[-1])}; {len(records)} records.</p>')
    parts.append(_doubts(said.doubts(records)))
    parts += [_table(t) for t in extra]
    made = tables.report(records)
    parts += [_table(t) for t in made[:1]]
    parts += [_figure(*drawn) for drawn in plots.figures(records)]
    parts += [_table(t) for t in made[1:]]
    return _document("QSM runtime: latency on this machine", parts)


def beside(named: Mapping[str, Sequence[Record]], made: Sequence[Table]) -> str:
    """The HTML text of machines side by side. made: their tables."""
    parts = [f'<p class="machine">{escape(text)}</p>' for text in _machines(named)]
    parts.append(_doubts([f"{name}: {text}" for name, found in named.items() for text in said.doubts(found)]))
    parts += [_figure(*drawn) for drawn in plots.beside(named)]
    parts += [_table(t) for t in made]
    return _document("QSM runtime: latency side by side", parts)


def beside_markdown(named: Mapping[str, Sequence[Record]], made: Sequence[Table]) -> str:
    """As `beside`, in Markdown."""
    out = ["# Latency side by side", "", *(f"- {text}" for text in _machines(named)), ""]
    out += [f"- {name}: {text}" for name, found in named.items() for text in said.doubts(found)]
    return "\n".join([*out, "", *(line for table in made for line in tables.markdown_table(table))])


def _machines(named: Mapping[str, Sequence[Record]]) -> list[str]:
    return [f"{name}: {text}" for name, found in named.items() for text in said.machines_said(found)]


def _document(title: str, parts: Sequence[str]) -> str:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
    body = "\n".join([f"<h1>{title}</h1>", *filter(None, parts), "<p>Research software, no medical device.</p>"])
    return f'<!doctype html>\n<html lang="en"><head>{head}<title>{title}</title></head><body>\n{body}\n</body></html>\n'


def _doubts(found: Sequence[str]) -> str:
    if not found:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in found)
    return f'<div class="doubt"><strong>Not all of this can be trusted.</strong><ul>{items}</ul></div>'


def _figure(caption: str, drawing: str) -> str:
    titled = drawing.replace("<svg", f'<svg role="img" aria-label="{escape(caption, quote=True)}"', 1)
    return f'<figure><figcaption>{escape(caption)}</figcaption><div class="scroll">{titled}</div></figure>'


def _table(table: Table) -> str:
    kinds = ["word long" if c == "accuracy" else "word" if c in tables.WORDS else "" for c in table.columns]
    head = "".join(f'<th class="{k}" scope="col">{escape(c)}</th>' for k, c in zip(kinds, table.columns, strict=True))
    body = "".join(
        "<tr>" + "".join(f'<td class="{k}">{escape(c)}</td>' for k, c in zip(kinds, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h2>{escape(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{note}"
    )
