"""Small pieces of HTML that the sections are made of."""

from collections.abc import Iterable
from html import escape


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
