"""What a run reports: counts that sum to the input, the shape of what came out, and what it was made with.

The report says nothing of the machine, the workers or the time, so that equal inputs and options give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from bethink import __version__
from bethink.core.config import StrictModel
from bethink.curate.config import CurateConfig
from bethink.curate.curriculum import Curriculum
from bethink.curate.filters import BLOCK_FILTERS, SAMPLE_FILTERS, SELECTION
from bethink.curate.gather import Tally
from bethink.curate.read import InputFile
from bethink.curate.schema import UNREADABLE
from bethink.curate.spill import MODES

MEANING = {**UNREADABLE, **SAMPLE_FILTERS, **BLOCK_FILTERS, **SELECTION}
"""Every reason a row can be dropped for, in the order it is asked, with what it means."""

CURVE_POINTS = 200


class Rows(StrictModel):
    """read = kept + the sum of `dropped`."""

    read: int
    kept: int
    dropped: dict[str, int]


class Report(StrictModel):
    """The contents of report.json.

    rows: rows read, kept, and dropped by each filter in the order they are asked ("schema" is all that could not be read).
    reasons: the dropped rows by the names in rejects.jsonl, "schema" taken apart.
    unreadable, unreadable_share: rows that could not be read, and their share of those read.
    broken_files: input files that could not be read to their end.
    skipped: rules skipped because the row has no such field, with how often.
    modes: rows kept with thinking on and off. sources: of each source of the mix its share, the good rows there were, and how many of
    them were kept and left out by each choice; rows of no source have the share None. files: rows read and kept by input file. shards: the files written.
    histograms: for "tokens" and "completion_tokens", by mode: count, mean, percentiles, and [from, to) bins that double.
    curve: difficulty along the curriculum by mode (mean in each of equal stretches) and the share of thinking-on rows there.
    """

    rows: Rows
    reasons: dict[str, int]
    unreadable: int
    unreadable_share: float
    broken_files: list[str]
    skipped: dict[str, int]
    modes: dict[str, int]
    sources: list[dict[str, Any]] = Field(default_factory=list)
    files: list[dict[str, Any]]
    shards: list[dict[str, Any]]
    histograms: dict[str, dict[str, Any]]
    curve: dict[str, list[float | None]]
    tokenizer: dict[str, str]
    config: dict[str, Any]
    version: str

    @property
    def worst(self) -> str:
        """The filter that dropped most rows."""
        return max(self.rows.dropped, key=lambda name: self.rows.dropped[name])


def build_report(
    config: CurateConfig,
    tokenizer_hash: str,
    files: Sequence[InputFile],
    tally: Tally,
    curriculum: Curriculum,
    shards: list[dict[str, Any]],
) -> Report:
    """Put the report together from what the run counted."""
    read, kept = tally.rows.total(), tally.kept.total()
    reasons = {name: tally.dropped[name] for name in MEANING}
    unreadable = sum(reasons[name] for name in UNREADABLE)
    wanted = {name: count for name, count in reasons.items() if name not in UNREADABLE}
    modes = dict(curriculum.describe("SELECT mode, count(*) FROM taken GROUP BY mode"))
    return Report(
        rows=Rows(read=read, kept=kept, dropped={"schema": unreadable} | wanted),
        reasons=reasons,
        unreadable=unreadable,
        unreadable_share=round(unreadable / read, 6) if read else 0.0,
        broken_files=[files[index].label for index in sorted(tally.broken_files)],
        skipped={name: tally.skipped[name] for name in MEANING if tally.skipped[name]},
        modes={name: modes.get(code, 0) for code, name in enumerate(MODES)},
        sources=_sources(config, curriculum),
        files=[
            {"file": file.label, "rows": tally.rows[index], "kept": tally.kept[index]}
            for index, file in enumerate(files)
        ],
        shards=shards,
        histograms={name: _histogram(curriculum, name) for name in ("tokens", "completion_tokens")},
        curve=_curve(curriculum, kept),
        tokenizer={"model": config.tokenizer, "sha256": tokenizer_hash},
        config=config.deciding(),
        version=__version__,
    )


def _sources(config: CurateConfig, curriculum: Curriculum) -> list[dict[str, Any]]:
    """The good rows of each source by what became of them; nothing without a mix."""
    counts = curriculum.by_source()
    sources = []
    for index, source in enumerate(config.sources if config.mix else ()):
        became = {name: counts.get((index, name), 0) for name in ("kept", *SELECTION)}
        share = (config.mix or {}).get(source.name)
        sources.append({"source": source.name, "share": share, "good": sum(became.values()), **became})
    return sources


def _histogram(curriculum: Curriculum, column: str) -> dict[str, Any]:
    """Statistics and doubling bins of a column of whole numbers, by mode.

    Percentiles are read off the counts of the values: a set has far fewer lengths than rows, and a sort of all rows is not held.
    """
    histogram: dict[str, Any] = {}
    for code, mode in enumerate(MODES):
        where = f"FROM taken WHERE mode = {code}"
        ((count, mean, largest),) = curriculum.describe(
            f"SELECT count(*), avg({column}), max({column}) {where}"
        )
        (percentiles,) = curriculum.describe(
            "SELECT min(value) FILTER (reached >= 0.05 * total), min(value) FILTER (reached >= 0.5 * total), "
            "min(value) FILTER (reached >= 0.95 * total) FROM "
            "(SELECT value, sum(times) OVER (ORDER BY value) AS reached, sum(times) OVER () AS total FROM "
            f"(SELECT {column} AS value, count(*) AS times {where} GROUP BY 1))"
        )
        bins = curriculum.describe(
            f"SELECT floor(log2(greatest({column}, 1)))::INTEGER AS power, count(*) {where} GROUP BY 1 ORDER BY 1"
        )
        histogram[mode] = {
            "count": count,
            "mean": round(mean, 2) if count else None,
            **dict(zip(("p5", "p50", "p95"), percentiles, strict=True)),
            "max": largest,
            "bins": [[2**power, 2 ** (power + 1), rows] for power, rows in bins],
        }
    return histogram


def _curve(curriculum: Curriculum, kept: int) -> dict[str, list[float | None]]:
    points = min(CURVE_POINTS, kept)
    curve: dict[str, list[float | None]] = {"place": [], "on": [], "off": [], "on_share": []}
    for point, on, off, share in curriculum.describe(
        f"SELECT place * {points} // {max(kept, 1)} AS point, avg(difficulty) FILTER (mode = 0), "
        "avg(difficulty) FILTER (mode = 1), avg((mode = 0)::INTEGER) FROM taken GROUP BY 1 ORDER BY 1"
    ):
        curve["place"].append(round((point + 0.5) / points, 5))
        curve["on"].append(None if on is None else round(on, 4))
        curve["off"].append(None if off is None else round(off, 4))
        curve["on_share"].append(round(share, 4))
    return curve
