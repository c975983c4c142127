"""The report of a recording: JSON in the form of all benchmarks, and one HTML file that needs no other."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadtest.figures import rows_of
from loadtest.pictures import pictures_of
from loadtest.recording import Recording
from service.files import write_json

_TABLES = {
    "beyond": "Beyond the knee",
    "held": "Rate held, by the limit of its p99",
    "stage": "Stages",
    "call": "Calls",
}
_CAPTIONS = {
    "lists": "Lists that were due, that came in time, and that were refused",
    "latency": "From when a list was due until it was there",
    "engine": "What the worker had to do",
}
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 12px; margin: .6em 0 1.6em; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #ddd; padding: .25em .6em; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
svg { max-width: 100%; height: auto }
"""


def write_reports(recording: Recording, folder: Path) -> list[dict[str, Any]]:
    """Write `report.json`, `report.html` and its pictures into a folder; the rows.

    Raises:
        InputError: matplotlib is missing, or a file cannot be written.
    """
    rows, pictures = rows_of(recording), pictures_of(recording)
    told = {name: recording.about[name] for name in ("command", "versions", "device")}
    write_json(folder / "report.json", {**told, "rows": rows})
    for name, picture in pictures.items():
        (folder / f"{name}.svg").write_bytes(picture)
    (folder / "report.html").write_text(_html(recording.about, rows, pictures), encoding="utf-8")
    return rows


def _html(about: Mapping[str, Any], rows: Sequence[dict[str, Any]], pictures: Mapping[str, bytes]) -> str:
    drawn = [f"<h2>{escape(_CAPTIONS[name])}</h2>{_inline(picture)}" for name, picture in pictures.items()]
    tables = []
    for kind, title in _TABLES.items():
        of_kind = [
            {name: value for name, value in row.items() if name != "kind"}
            for row in rows
            if row["kind"] == kind
        ]
        if of_kind:
            tables.append(f"<h2>{escape(title)}</h2>{_table(of_kind)}")
    title = f"Load test: {about['shape']}"
    run = _table([{"setting": name, "value": value} for name, value in _settings(about).items()])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1><p>{escape(about['started'])}, {escape(about['device'])}: "
        f"<code>{escape(about['command'])}</code></p>"
        f"{''.join(tables[:2])}{''.join(drawn)}{''.join(tables[2:])}<h2>Run</h2>{run}</html>\n"
    )


def _settings(about: Mapping[str, Any]) -> dict[str, Any]:
    others = {name: value for name, value in about.items() if name not in ("profile", "versions")}
    return {**others, **about["versions"], **about["profile"]}


def _inline(picture: bytes) -> str:
    """An SVG without what stands before it in a file of its own."""
    text = picture.decode()
    return text[text.index("<svg") :]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(_cell(value))}</td>' for value in row.values())}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.3g}" if abs(value) < 10 else f"{value:,.0f}"
        case dict():
            return ", ".join(f"{name} {count}" for name, count in value.items()) or "none"
        case list() | tuple():
            return ", ".join(map(_cell, value))
    return str(value)
