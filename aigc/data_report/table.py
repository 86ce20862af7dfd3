"""A report on a data set as lines for the terminal."""

import shlex
import textwrap
from collections.abc import Iterator
from typing import Any

from aigc.data.headers import GREY, TRANSPARENT
from aigc.data.stretches import CLIPPED_RUN, SILENT_DBFS
from aigc.data_report.facts import between, duration, left_out
from aigc.data_report.report import Report
from aigc.display import printable

WIDTH = 100
HEAD = 13
"""Columns of the left-hand heads."""
CLASSES = 20
"""Largest number of classes that are named; all are in the JSON."""
CHARACTERS = 120
"""Largest number of characters of texts that are shown."""

_MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "RGB": "colour",
    "RGBA": "colour with transparency",
    "P": "palette of colours",
    "P with transparency": "palette with transparency",
    "CMYK": "colour for printing",
    "F": "grey, floating point",
    "I": "grey of 32 bits",
}


def table(report: Report) -> str:
    """Text of a report: heads to the left, contents to the right."""
    parts = [
        ("data", _data(report)),
        ("rows", _rows(report)),
        ("classes", _classes(report)),
        ("parts", _parts(report)),
        ("pictures", _pictures(report)),
        ("sounds", _sounds(report)),
        ("texts", _texts(report)),
        ("values", _values(report)),
        ("left out", [left_out(one) for one in report.left_out] or ["nothing"]),
        ("unreadable", _unreadable(report)),
        ("duplicates", _duplicates(report)),
        ("notes", report.notes),
        ("fingerprint", _fingerprint(report)),
        ("index", [f"{report.index_s:,.1f} s until the rows were known"] if report.path else []),
    ]
    lines = [line for head, contents in parts for line in _wrapped(head, [*contents])]
    return "\n".join(printable(line) for line in [*lines, *_train(report)])


def _wrapped(head: str, contents: list[str]) -> Iterator[str]:
    for number, line in enumerate(contents):
        first = f"{head if number == 0 else '':<{HEAD}}"
        if line.startswith(" "):  # a row of a table
            yield first + line[1:]
            continue
        yield from textwrap.wrap(
            line,
            WIDTH,
            initial_indent=first,
            subsequent_indent=" " * (HEAD + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )


def _data(report: Report) -> list[str]:
    names = [report.name, *([report.path] if report.path not in ("", report.name) else [])]
    why = f": {report.guessed}" if report.guessed else ", as you named it"
    return [*names, f"read by source {report.source}{why}"]


def _rows(report: Report) -> Iterator[str]:
    used = [f"{report.rows['train']:,} to train on"]
    if "test" in report.rows:
        used.append(f"{report.rows['test']:,} held out to measure quality")
    yield ", ".join(used)
    if report.splits:
        splits = ", ".join(f"{name} {count:,}" for name, count in report.splits.items())
        yield f"in the data: {splits}"


def _classes(report: Report) -> Iterator[str]:
    if not report.classes:
        yield "none: rows have no labels"
        return
    classes = report.classes
    counts = [one["train"] for one in classes if one["train"] is not None]
    size = f", {between(counts)} to train on" if counts else ""
    yield f"{len(classes):,}{size}"
    width = min(40, max(len("class"), *(len(one["name"]) for one in classes[:CLASSES])))
    splits = [split for split in ("train", "test") if split in report.rows]
    if counts:
        yield f" {'class':<{width}}" + "".join(f"{split:>12}" for split in splits)
        for one in classes[:CLASSES]:
            name = one["name"] if len(one["name"]) <= width else f"{one['name'][: width - 1]}…"
            cells = ("unknown" if one[s] is None else f"{one[s]:,}" for s in splits)
            yield f" {name:<{width}}" + "".join(f"{cell:>12}" for cell in cells)
    else:
        yield ", ".join(one["name"] for one in classes[:CLASSES])
        yield "how many rows each has is known once all are read: leave out --quick"
    if len(classes) > CLASSES:
        yield f"and {len(classes) - CLASSES:,} more: --json names them all"
    for split, what in (("train", "to train on"), ("test", "held out")):
        empty = [one["name"] for one in classes if one.get(split) == 0]
        if empty:
            more = ", ..." if len(empty) > CLASSES else ""
            yield f"without a row {what}: {', '.join(empty[:CLASSES])}{more}"


def _parts(report: Report) -> Iterator[str]:
    for split, counts in (report.parts or {}).items():
        tried = report.tried[split]
        parts = (f"{count:,} with {name}" for name, count in counts.items())
        yield f"{split}: of {tried:,} rows {', '.join(parts)}"


def _pictures(report: Report) -> Iterator[str]:
    pictures = report.pictures
    if pictures is None:
        return
    total = sum(pictures["modes"].values())
    kinds = (f"{count:,} {_mode(mode)}" for mode, count in pictures["modes"].items())
    yield ", ".join(kinds) + (
        f"; {pictures['animated']:,} animated" if pictures["animated"] else ""
    )
    if pictures["different_sizes"] == 1:
        width, height, _ = pictures["sizes"][0]
        yield f"all {width} x {height} pixels, width x height"
        return
    yield (
        f"{pictures['different_sizes']:,} sizes, width x height, from"
        f" {_size(pictures['smallest'])} to {_size(pictures['largest'])}"
    )
    common = (f"{w} x {h}: {count / total:.1%}" for w, h, count in pictures["sizes"][:3])
    yield f"commonest: {', '.join(common)}"


def _mode(mode: str) -> str:
    """Mode in words, then Pillow's name."""
    known = _MODES.get(mode) or ("grey of 16 bits" if mode in GREY else "")
    return f"{known} ({mode})" if known else mode


def _size(size: list[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _sounds(report: Report) -> Iterator[str]:
    sounds = report.sounds
    if sounds is None:
        return
    yield ", ".join(f"{count:,} at {int(rate):,} Hz" for rate, count in sounds["rates_hz"].items())
    named = {"1": "mono", "2": "stereo"}
    yield ", ".join(
        f"{count:,} {named.get(number, f'of {number} channels')}"
        for number, count in sounds["channels"].items()
    )
    yield (
        f"{sounds['shortest_s']:.2f} to {sounds['longest_s']:.2f} s long, half of them up to"
        f" {sounds['median_s']:.2f} s; {duration(sounds['total_s'])} in all"
    )
    if sounds["left_out_s"]:
        share = sounds["left_out_s"] / sounds["total_s"]
        cure = ": --data.pieces takes all" if report.source == "audio" else ""
        yield (
            f"{sounds['longer']:,} longer than the {sounds['row_s']:.2f} s of a row, so that"
            f" {duration(sounds['left_out_s'])} are in none, {share:.1%} of the sound{cure}"
        )
    if report.pieces:
        yield from _recordings(sounds)
    yield from _levels(sounds)


def _recordings(sounds: dict[str, Any]) -> Iterator[str]:
    """Number of the recordings that were tried, and those that cannot be read."""
    count, tried = sounds["recordings"]["count"], sounds["recordings"]["tried"]
    if tried < count:
        yield f"this is said of {tried:,} recordings that were tried, of {count:,}"
    unread = sounds["unread"]
    if unread["count"]:
        yield f"recordings that cannot be read to their end: {unread['count']:,}"
        yield from unread["first"]


def _levels(sounds: dict[str, Any]) -> Iterator[str]:
    """Silence and clipping, with the limits from which they count."""
    silent, clipped = sounds["silent"], sounds["clipped"]
    if silent is None:
        yield "silence and clipping are not looked for: leave out --quick"
        return
    names = _first(silent["first"], silent["count"])
    yield f"silent, peak below {SILENT_DBFS:g} dBFS: {silent['count'] or 'none'}{names}"
    shares = [f"{name}: {share:.2%}" for name, share in clipped["first"]]
    yield (
        f"clipped, {CLIPPED_RUN} or more neighbouring samples at full scale:"
        f" {clipped['count'] or 'none'}{_first(shares, clipped['count'])}"
    )


def _first(names: list[str], count: int) -> str:
    more = ", ..." if count > len(names) else ""
    return f" ({', '.join(names)}{more})" if names else ""


def _texts(report: Report) -> Iterator[str]:
    texts = report.texts
    if texts is None:
        return
    yield (
        f"{texts['shortest']:,} to {texts['longest']:,} characters long, half of them up to"
        f" {texts['median']:,.0f}"
    )
    shown = repr(texts["characters"][:CHARACTERS])[1:-1]
    more = " ..." if len(texts["characters"]) > CHARACTERS else ""
    yield f"{len(texts['characters']):,} different characters: {shown}{more}"
    yield f"vocabulary of {texts['tokens']:,} with the end of a text"


def _values(report: Report) -> Iterator[str]:
    if report.values is not None:
        low, high = report.values
        yield f"{low:.6g} to {high:.6g}"


def _unreadable(report: Report) -> Iterator[str]:
    tried, there = sum(report.tried.values()), sum(report.rows.values())
    how = "tried" if report.decoded else "looked at by their headers alone"
    part = f"rows, all of which were {how}" if tried == there else f"rows that were {how}"
    beyond = "" if tried == there else f", of {there:,}"
    yield f"{report.unreadable['count'] or 'none'} of {tried:,} {part}{beyond}"
    yield from report.unreadable["first"]


def _duplicates(report: Report) -> Iterator[str]:
    duplicates = report.duplicates
    if duplicates is None:
        yield "not looked for: leave out --quick"
        return
    named = {"train": "to train on", "test": "held out"}
    counts = (f"{duplicates[s]:,} of those {named[s]}" for s in report.rows if duplicates.get(s))
    yield f"equal to an earlier row of their split: {', '.join(counts) or 'none'}"
    if "test" in report.rows:
        yield f"held out and trained on as well: {duplicates['across'] or 'none'}"
    yield from (f"{one} is equal to {other}" for one, other in duplicates["first"])


def _fingerprint(report: Report) -> list[str]:
    known = report.fingerprint or {"sha256": "not known without reading all: leave out --quick"}
    return [str(known["sha256"])]


def _train(report: Report) -> list[str]:
    if not report.suggestion:
        return []
    return ["", *_hints(report), report.suggestion]


def _hints(report: Report) -> Iterator[str]:
    """Effects of the suggested command on the data, and the flags that change them."""
    yield "To train on it:"
    shape: Any = report.shapes.get("image")
    if shape and report.pictures:
        size = f"{shape[2]} x {shape[1]}"
        if report.pictures["different_sizes"] > 1 or report.pictures["largest"] != [*shape[:0:-1]]:
            yield f"  pictures are cut to their centre and brought to {size} pixels, width x height"
        if shape[0] == 4:
            yield (
                "  their transparency is learned, too; --model.shape"
                f" 3 {shape[1]} {shape[2]} puts them on white instead"
            )
        elif any(_is_transparent(mode) for mode in report.pictures["modes"]):
            yield "  what is transparent in them is put on white"
        if report.pictures["animated"]:
            yield "  of an animation the first picture is taken"
    if report.source == "paired":
        alone = {"image": "folder", "text": "text", "audio": "audio"}
        yield "  rows have several parts; for one of them alone:"
        for part in report.parts["train"] if report.parts else ():
            yield f"    aigc data {alone[part]} {shlex.quote(report.path)}"
    if report.sounds and "audio" in report.shapes:
        yield from _resampling(report)
    if report.unreadable["count"]:
        yield "  rows that cannot be read give their place to the next one that can"
    if len(report.rows) == 1:
        yield "  quality cannot be measured, by --evaluate-interval or `aigc evaluate`"


def _is_transparent(mode: str) -> bool:
    return mode in TRANSPARENT or mode.endswith("transparency")


def _resampling(report: Report) -> Iterator[str]:
    """Effects of the model's rate and length on sounds."""
    sounds: Any = report.sounds
    rate_hz, recorded_hz = sounds["sample_rate_hz"], max(map(int, sounds["rates_hz"]))
    if report.pieces:
        yield (
            f"  sounds are brought to {rate_hz:,} Hz and taken whole, in pieces of"
            f" {sounds['row_s']:.2f} s, as loud as they are"
        )
    else:
        yield (
            f"  sounds are brought to {rate_hz:,} Hz, and {sounds['row_s']:.2f} s of each are taken"
        )
    if recorded_hz > rate_hz:
        yield (
            f"  what lies above {rate_hz // 2:,} Hz in them is lost; to keep it,"
            f" `aigc data --sample-rate-hz {recorded_hz}` says how"
        )
