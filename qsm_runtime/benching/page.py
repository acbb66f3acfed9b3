"""The report as one HTML file that needs nothing else: tables, figures, the machine, and every doubt."""

from collections.abc import Sequence
from html import escape

from qsm_runtime.benching import plots, tables
from qsm_runtime.benching.tables import Record, Table

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #111; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .2rem .5rem; border-bottom: 1px solid #ccc; text-align: right; vertical-align: top; }
th { border-bottom: 2px solid #111; } .word { text-align: left; }
tbody tr:nth-child(even) { background: #f5f5f5; }
.scroll { overflow-x: auto; }
figure { margin: 1.5rem 0; break-inside: avoid; } figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { max-width: 100%; height: auto; }
.doubt { border-left: 4px solid #D55E00; padding: .3rem .8rem; background: #fdf3ec; }
.note, .machine { color: #444; font-size: .85rem; overflow-wrap: anywhere; }
@media print { body { max-width: none; margin: 0; font-size: 10pt; } table { font-size: 7.5pt; }
  .scroll { overflow: visible; } tr, figure { break-inside: avoid; } h2 { break-after: avoid; }
  thead { display: table-header-group; } @page { margin: 14mm; } }
"""


def page(records: Sequence[Record], extra: Sequence[Table] = ()) -> str:
    """The HTML text. extra: tables that come first, such as a budget's."""
    parts = ["<h1>QSM runtime: latency on this machine</h1>"]
    for said in dict.fromkeys(tables.machine_said(r["environment"]) for r in records):
        parts.append(f'<p class="machine">{escape(said)}</p>')
    when = sorted(r["utc"] for r in records if "utc" in r)
    if when:
        parts.append(f'<p class="note">Measured {escape(when[0])} to {escape(when[-1])}; {len(records)} records.</p>')
    doubts = tables.doubts(records)
    if doubts:
        items = "".join(f"<li>{escape(text)}</li>" for text in doubts)
        parts.append(f'<div class="doubt"><strong>Not all of this can be trusted.</strong><ul>{items}</ul></div>')
    parts += [_table(t) for t in extra]
    made = tables.report(records)
    parts += [_table(t) for t in made[:1]]
    for caption, drawing in plots.figures(records):
        titled = drawing.replace("<svg", f'<svg role="img" aria-label="{escape(caption, quote=True)}"', 1)
        parts.append(f"<figure><figcaption>{escape(caption)}</figcaption>{titled}</figure>")
    parts += [_table(t) for t in made[1:]]
    parts.append('<p class="note">Research software, no medical device.</p>')
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
    title = "<title>QSM runtime: latency</title>"
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}{title}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"
    )


def _table(table: Table) -> str:
    kinds = ["word" if c in tables.WORDS else "" for c in table.columns]
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
