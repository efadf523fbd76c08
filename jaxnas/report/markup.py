"""Small pieces of HTML that the sections are made of."""

from collections.abc import Iterable
from html import escape

LONGEST = 28  # characters of an arch that are shown as they are


def figure(svg: str, caption: str) -> str:
  """Wraps a chart with its caption (HTML)."""
  return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def section(name: str, title: str, body: str) -> str:
  """Wraps a section; an empty body leaves it out."""
  if not body:
    return ""
  return f'<section id="{name}"><h2>{escape(title)}</h2>{body}</section>'


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
  """Builds a table that scrolls by itself; cells are HTML."""
  columns = "".join(f"<th>{h}</th>" for h in head)
  lines = "".join(
    f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows
  )
  return (
    f'<div class="scroll"><table><thead><tr>{columns}</tr></thead>'
    f"<tbody>{lines}</tbody></table></div>"
  )


def warning(text: str) -> str:
  """Wraps a plain sentence as a warning."""
  return f'<p class="warning">{escape(text)}</p>'


def paragraphs(*sentences: str) -> str:
  """Wraps plain sentences, each in its own paragraph."""
  return "".join(f"<p>{escape(s)}</p>" for s in sentences if s)


def grid(figures: list[str]) -> str:
  """Lays figures out side by side where there is room."""
  return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def shortened(arch: str) -> str:
  """An arch's text, its middle left out where it is long."""
  return arch if len(arch) <= LONGEST else f"{arch[:11]}…{arch[-6:]}"


def arch_text(arch: str) -> str:
  """An arch's text as HTML; a long one shows in full on hover."""
  short = shortened(arch)
  title = "" if short == arch else f' title="{escape(arch)}"'
  return f"<code{title}>{escape(short)}</code>"


def candidate_name(candidate: int) -> str:
  """What a draw is called; number -1 is the threshold mask."""
  return "threshold mask" if candidate < 0 else f"candidate {candidate:,}"
