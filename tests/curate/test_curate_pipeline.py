"""Raw rows in, a clean curriculum out: what is kept, what is not, in which order, and that nothing else decides the bytes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bethink.chat.render import Renderer
from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.errors import BethinkError, DataError, OutputError
from bethink.core.files import read_json, read_jsonl
from bethink.curate.config import CurateConfig
from bethink.curate.pipeline import _claim, _explain_disk, check, curate, run
from bethink.curate.read import find_inputs
from bethink.curate.report import MEANING, Report
from bethink.curate.spill import Header, read_block, write_block
from curate.rows import expected_reason, row, write_rows

ROWS = 600


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A directory of rows with every defect, and their labels."""
    directory = tmp_path_factory.mktemp("raw")
    return directory, write_rows(directory, ROWS)


def config(source: Path, output: Path, tokenizer: Path, **options: Any) -> CurateConfig:
    defaults: dict[str, Any] = {
        "max_tokens": 40_000, "max_completion_tokens": 1200, "workers": 1, "max_bad_share": 1.0, "block_bytes": 100_000,
    }  # fmt: skip
    return CurateConfig(input=(source,), output=output, tokenizer=str(tokenizer), **{**defaults, **options})


def kept(output: Path) -> list[dict[str, Any]]:
    return [record for path in sorted(output.glob("train-*.jsonl")) for record in read_jsonl(path)]


def fingerprint(output: Path) -> dict[str, str]:
    """The bytes of everything in a finished output, but for the record of which run it is."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.iterdir())
        if path.name != ".fingerprint.json"
    }


@pytest.fixture(scope="session")
def done(
    raw: tuple[Path, dict[str, str]], tiny_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Report]:
    """One finished run over `raw`."""
    output = tmp_path_factory.mktemp("done") / "out"
    return output, curate(config(raw[0], output, tiny_tokenizer_dir))


def test_every_row_is_kept_or_rejected_for_its_defect(
    raw: tuple[Path, dict[str, str]], done: tuple[Path, Report]
) -> None:
    labels, output = raw[1], done[0]
    reasons = {record["source"]: None for record in kept(output)}
    rejects = list(read_jsonl(output / "rejects.jsonl"))
    reasons |= {f"{reject['file']}:{reject['line']}": reject["reason"] for reject in rejects}
    assert len(reasons) == len(kept(output)) + len(rejects) == ROWS
    assert {source: reasons[source] for source in labels} == {
        s: expected_reason(label) for s, label in labels.items()
    }
    assert [(r["file"], r["line"]) for r in rejects] == sorted((r["file"], r["line"]) for r in rejects)
    assert len(set(labels.values())) > 40


def test_the_counts_sum_to_the_input(done: tuple[Path, Report]) -> None:
    output, report = done
    rows = report.rows
    assert (
        rows.read
        == rows.kept + sum(rows.dropped.values())
        == rows.kept + sum(report.reasons.values())
        == ROWS
    )
    assert Counter(reject["reason"] for reject in read_jsonl(output / "rejects.jsonl")) == Counter(
        report.reasons
    )
    assert sum(report.modes.values()) == rows.kept == sum(file["kept"] for file in report.files)
    for histogram in report.histograms.values():
        for mode, shown in histogram.items():
            assert sum(count for _, _, count in shown["bins"]) == shown["count"] == report.modes[mode]
    assert set(report.reasons) == set(MEANING)
    assert Report.model_validate(read_json(output / "report.json")) == report


def test_a_row_is_what_the_renderer_makes_of_it(
    raw: tuple[Path, dict[str, str]], done: tuple[Path, Report], tiny_tokenizer_dir: Path
) -> None:
    renderer = Renderer(ChatTokenizer.load(tiny_tokenizer_dir))
    for record in islice(kept(done[0]), 50):
        file, line = record["source"].split(":")
        source = json.loads((raw[0] / file).read_bytes().split(b"\n")[int(line) - 1])
        rendered = renderer.render(source["input"], source["output"], source["reasoning"])
        assert (record["input"], record["output"]) == (rendered.prompt_text, rendered.completion_text)
        assert record["input"].count("detailed thinking") == 1
        assert record["output"].endswith("<|im_end|>")
        assert record["mode"] == source["reasoning"]
        assert (record["tokens"], record["completion_tokens"]) == (
            len(rendered.token_ids),
            len(rendered.completion_ids),
        )


def test_difficulty_never_falls_within_a_mode_and_windows_keep_the_ratio(done: tuple[Path, Report]) -> None:
    records = kept(done[0])
    for mode in ("on", "off"):
        tokens = [record["completion_tokens"] for record in records if record["mode"] == mode]
        assert tokens == sorted(tokens)
    share = done[1].modes["on"] / len(records)
    flags = [record["mode"] == "on" for record in records]
    for start in range(len(flags) - 100):
        assert abs(sum(flags[start : start + 100]) / 100 - share) < 0.03


@pytest.mark.parametrize(("workers", "block_bytes"), [(1, 12_000), (1, 1 << 22), (2, 60_000), (3, 70_000)])
def test_workers_and_blocks_do_not_change_a_byte(
    raw: tuple[Path, dict[str, str]],
    done: tuple[Path, Report],
    tiny_tokenizer_dir: Path,
    tmp_path: Path,
    workers: int,
    block_bytes: int,
) -> None:
    options = config(raw[0], tmp_path / "out", tiny_tokenizer_dir, workers=workers, block_bytes=block_bytes)
    curate(options)
    assert fingerprint(options.output) == fingerprint(done[0])


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 rows without fault, one file."""
    directory = tmp_path_factory.mktemp("plain")
    write_rows(directory, 200, defective=0.0, seed=5, files=1)
    return directory


def test_parquet_carries_the_same_rows_with_their_token_ids(
    plain: Path, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    curate(config(plain, tmp_path / "jsonl", tiny_tokenizer_dir, shard_rows=64))
    for block_bytes in (10_000, 1 << 20):
        output = tmp_path / f"parquet{block_bytes}"
        curate(
            config(
                plain, output, tiny_tokenizer_dir, format="parquet", shard_rows=64, block_bytes=block_bytes
            )
        )
    assert fingerprint(tmp_path / "parquet10000") == fingerprint(tmp_path / "parquet1048576")
    shards = sorted((tmp_path / "parquet10000").glob("train-*.parquet"))
    assert [pq.read_metadata(shard).num_rows for shard in shards[:-1]] == [64] * (len(shards) - 1)
    records = pa.concat_tables(pq.read_table(shard) for shard in shards).to_pylist()
    tokenizer = ChatTokenizer.load(tiny_tokenizer_dir)
    for record, expected in zip(records, kept(tmp_path / "jsonl"), strict=True):
        prompt, completion = record.pop("prompt_ids"), record.pop("completion_ids")
        assert record == expected
        assert prompt + completion == tokenizer.encode(record["input"] + record["output"])
        assert len(completion) == record["completion_tokens"]


def test_the_maximum_is_spread_over_the_curriculum(
    plain: Path, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    report = curate(config(plain, tmp_path / "out", tiny_tokenizer_dir, max_samples=60, on_off_ratio="1:1"))
    all_of_it = curate(config(plain, tmp_path / "all", tiny_tokenizer_dir))
    assert report.modes == {"on": 30, "off": 30}
    dropped = report.rows.dropped
    assert dropped["on_off_ratio"] == abs(all_of_it.modes["on"] - all_of_it.modes["off"])
    assert report.rows.read == 60 + sum(dropped.values())
    for mode in ("on", "off"):
        few = [record["completion_tokens"] for record in kept(tmp_path / "out") if record["mode"] == mode]
        many = [record["completion_tokens"] for record in kept(tmp_path / "all") if record["mode"] == mode]
        assert abs(few[15] - many[len(many) // 2]) <= 20
        assert few[-1] >= many[int(0.95 * len(many))]


@pytest.mark.parametrize("difficulty", ["thinking_tokens", "field:rating"])
def test_the_curriculum_rises_by_what_is_asked_for(
    plain: Path, tiny_tokenizer_dir: Path, tmp_path: Path, difficulty: str
) -> None:
    curate(config(plain, tmp_path / "out", tiny_tokenizer_dir, difficulty=difficulty))
    source = (plain / "part-0.jsonl").read_bytes().split(b"\n")
    tokenizer = ChatTokenizer.load(tiny_tokenizer_dir)

    def of(record: dict[str, Any]) -> float:
        if difficulty == "field:rating":
            return float(json.loads(source[int(record["source"].split(":")[1]) - 1])["rating"])
        return len(tokenizer.encode(record["output"].partition("</think>")[0]))

    values = [of(record) for record in kept(tmp_path / "out") if record["mode"] == "on"]
    assert all(later >= value - 1 for value, later in pairwise(values))


def test_rows_without_the_field_to_order_by_are_dropped(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    records = [row(number) for number in range(20)]
    for record in records[:7]:
        del record["rating"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    report = curate(
        config(tmp_path / "rows.jsonl", tmp_path / "out", tiny_tokenizer_dir, difficulty="field:rating")
    )
    assert report.rows.dropped["no_difficulty"] == 7


def test_a_random_order_depends_on_the_seed_alone(
    plain: Path, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    runs = {}
    for name, seed, block_bytes in (("a", 1, 20_000), ("b", 1, 1 << 20), ("c", 2, 20_000)):
        options = config(
            plain, tmp_path / name, tiny_tokenizer_dir, order="random", seed=seed, block_bytes=block_bytes
        )
        curate(options)
        runs[name] = [record["source"] for record in kept(options.output)]
    assert runs["a"] == runs["b"] != runs["c"]
    assert sorted(runs["a"]) == sorted(runs["c"])
    lines = [int(source.split(":")[1]) for source in runs["a"]]
    assert lines != sorted(lines)


def test_rows_of_a_users_own_pass_without_metadata(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    own = {
        "input": "How many boxes are there in all?",
        "output": "There are three boxes.",
        "reasoning": "off",
    }
    (tmp_path / "own.jsonl").write_text(json.dumps(own) + "\n")
    report = curate(config(tmp_path / "own.jsonl", tmp_path / "out", tiny_tokenizer_dir))
    assert report.rows.kept == 1
    assert report.skipped == {"trained_by": 1, "boxed": 1}


def test_the_input_may_be_parquet(plain: Path, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    records = [{**record, "used_in_training": ["Nano"]} for record in read_jsonl(plain / "part-0.jsonl")]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "part-0.parquet")
    curate(
        config(
            tmp_path / "part-0.parquet", tmp_path / "out", tiny_tokenizer_dir, workers=2, block_bytes=20_000
        )
    )
    curate(config(plain, tmp_path / "same", tiny_tokenizer_dir))
    renamed = [
        {**record, "source": record["source"].replace("parquet", "jsonl")}
        for record in kept(tmp_path / "out")
    ]
    assert renamed == kept(tmp_path / "same")


def test_a_dry_run_counts_the_same_and_writes_nothing(
    raw: tuple[Path, dict[str, str]], done: tuple[Path, Report], tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    report = run(config(raw[0], tmp_path / "out", tiny_tokenizer_dir, dry_run=True))
    assert (report.rows, report.histograms, report.curve) == (done[1].rows, done[1].histograms, done[1].curve)
    assert list(tmp_path.iterdir()) == []
    assert run(config(raw[0], tmp_path / "out", tiny_tokenizer_dir, dry_run=True, limit=100)).rows.read == 100


def test_a_template_that_loses_the_thinking_is_said(
    make_family_dir: Any, tiny_tokenizer_dir: Path, plain: Path, tmp_path: Path
) -> None:
    import shutil

    broken = tmp_path / "tokenizer"
    shutil.copytree(tiny_tokenizer_dir, broken)
    template = (broken / "chat_template.jinja").read_text()
    (broken / "chat_template.jinja").write_text(
        template.replace("message['content'] +", "message['content'][:20] +")
    )
    with pytest.raises(DataError) as caught:
        curate(config(plain, tmp_path / "out", broken))
    assert "`template`" in str(caught.value)
    assert "the template renders" in next(read_jsonl(tmp_path / "out" / "rejects.jsonl"))["detail"]


def test_too_many_unreadable_rows_fail_after_everything_is_written(
    raw: tuple[Path, dict[str, str]], tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    options = config(raw[0], tmp_path / "out", tiny_tokenizer_dir, max_bad_share=0.05)
    with pytest.raises(DataError) as caught:
        curate(options)
    report = read_json(options.output / "report.json")
    assert f"{report['unreadable']:,} of {ROWS:,} rows" in caught.value.what
    assert "bad_json" in caught.value.what
    assert len(kept(options.output)) == report["rows"]["kept"] > 0
    again = options.model_copy(update={"resume": True, "max_bad_share": 0.9})
    assert curate(again).rows.kept == report["rows"]["kept"]


def test_when_no_row_is_left_the_error_says_why(
    plain: Path, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        curate(config(plain, tmp_path / "out", tiny_tokenizer_dir, trained_by="Giga"))
    assert "no row of 200 is left" in caught.value.what
    assert "--trained-by any" in str(caught.value.fix)
    assert len(list(read_jsonl(tmp_path / "out" / "rejects.jsonl"))) == 200


def test_an_empty_input_is_said(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(DataError, match="no rows"):
        curate(config(tmp_path / "rows.jsonl", tmp_path / "out", tiny_tokenizer_dir))


def test_a_broken_file_fails_after_the_rest_is_curated(
    plain: Path, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.parquet").write_bytes(b"PAR1 and nothing more")
    (tmp_path / "in" / "b.jsonl").write_bytes((plain / "part-0.jsonl").read_bytes())
    with pytest.raises(DataError, match=r"a\.parquet"):
        curate(config(tmp_path / "in", tmp_path / "out", tiny_tokenizer_dir))
    assert len(kept(tmp_path / "out")) > 150


def test_an_output_that_holds_something_is_left_alone(
    plain: Path, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "out" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    for resume in (False, True):
        with pytest.raises(OutputError):
            curate(config(plain, tmp_path / "out", tiny_tokenizer_dir, resume=resume))
    assert [path.name for path in precious.parent.iterdir()] == ["precious.txt"]


def test_an_output_that_cannot_be_made_is_one_error(
    plain: Path, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(OutputError):
            curate(config(plain, output, tiny_tokenizer_dir))


def test_a_finished_run_is_not_done_again(
    plain: Path, tiny_tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = config(plain, tmp_path / "out", tiny_tokenizer_dir)
    report = curate(options)
    before = fingerprint(options.output)
    assert curate(options.model_copy(update={"resume": True, "workers": 2})) == report
    assert "finished already" in capsys.readouterr().err
    assert fingerprint(options.output) == before
    with pytest.raises(OutputError, match="seed"):
        curate(options.model_copy(update={"resume": True, "seed": 9}))


def test_options_that_mean_nothing_are_refused() -> None:
    good: dict[str, Any] = {"input": ["a"], "output": "b", "tokenizer": "c"}
    for bad in (
        {"on_off_ratio": "half"},
        {"on_off_ratio": "0:1"},
        {"difficulty": "length"},
        {"max_tokens": 0},
        {"input": []},
        {"input": ""},
        {"input": ["a", ""]},
    ):
        with pytest.raises(ValueError, match=r"on_off_ratio|difficulty|max_tokens|input"):
            CurateConfig(**{**good, **bad})


def test_the_result_of_a_failed_check_is_a_bethink_error(done: tuple[Path, Report], tmp_path: Path) -> None:
    broken = done[1].model_copy(update={"broken_files": ["a.jsonl.gz"]})
    with pytest.raises(BethinkError):
        check(broken, config(tmp_path, tmp_path, tmp_path))


def test_a_row_without_a_difficulty_does_not_take_its_good_repeat_with_it(
    tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    good = row(1, "off")
    rows = [{name: value for name, value in good.items() if name != "rating"}, good, good]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    for block_bytes in (1, 1 << 20):
        output = tmp_path / f"out{block_bytes}"
        report = curate(
            config(
                tmp_path / "a.jsonl",
                output,
                tiny_tokenizer_dir,
                difficulty="field:rating",
                block_bytes=block_bytes,
            )
        )
        assert {name: count for name, count in report.reasons.items() if count} == {
            "no_difficulty": 1,
            "duplicate": 1,
        }
        assert [record["source"] for record in kept(output)] == ["a.jsonl:2"]


def test_two_processes_never_write_one_output(plain: Path, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    options = config(plain, tmp_path / "out", tiny_tokenizer_dir)
    holder = (
        "import sys, time; from pathlib import Path; from bethink.core.files import only_process\n"
        "with only_process(Path(sys.argv[1]), '.work/lock'): print('held', flush=True); time.sleep(60)"
    )
    _claim(options, find_inputs(options.input), ChatTokenizer.load(tiny_tokenizer_dir))
    resumed = options.model_copy(update={"resume": True})
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(options.output)], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match="another process") as caught:
            curate(resumed)
        other.kill()
    assert caught.value.where == str(options.output)
    assert curate(resumed).rows.read == 200
    assert not (options.output / ".work").exists()


def test_what_a_detail_quotes_can_always_be_written(tmp_path: Path) -> None:
    header = Header(file=0, rows=1, rejects=[(0, "template", "half of a pair: \ud83d")])
    write_block(tmp_path / "block", header, [], [])
    ((_, _, detail),) = read_block(tmp_path / "block").header.rejects
    assert detail.encode() == b"half of a pair: ?"


def test_too_little_memory_for_sorting_is_told_from_a_full_disk(tmp_path: Path) -> None:
    for said, fix in (
        (
            "Out of Memory Error: could not allocate block of size 256.0 KiB (183.0 MiB/183.1 MiB used)",
            "fewer rows",
        ),
        (
            "Out of Memory Error: failed to offload data block\n'max_temp_directory_size' setting",
            "free some space",
        ),
    ):
        with pytest.raises(OutputError) as caught, _explain_disk(tmp_path):
            raise duckdb.OutOfMemoryException(said)
        assert fix in str(caught.value.fix)


def test_rows_for_a_model_with_other_tags_are_written_in_them(
    tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    own = [row(number, "on") for number in range(6)]
    for one in own[3:]:  # rows that have the model's tags already
        one["output"] = one["output"].replace("<think>", "[THINK]").replace("</think>", "[/THINK]")
    off = [row(number, "off") for number in range(6, 10)]
    off[0]["output"] = "[THINK]\nno\n[/THINK]\n\n" + off[0]["output"]
    off[1]["output"] = "<think>\nno\n</think>\n\n" + off[1]["output"]
    (source / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in own + off))
    report = curate(
        config(
            source,
            output,
            tiny_tokenizer_dir,
            think_open="[THINK]",
            think_close="[/THINK]",
            difficulty="thinking_tokens",
        )
    )
    assert report.reasons["think_pair"] == 2
    found = kept(output)
    assert len(found) == 8
    for one in found:
        assert "<think>" not in one["output"]
        assert "</think>" not in one["output"]
        assert (
            one["output"].count("[THINK]\n") == one["output"].count("\n[/THINK]\n\n") == (one["mode"] == "on")
        )


def test_when_nothing_is_left_the_error_lists_what_the_rows_have(
    raw: tuple[Path, dict[str, str]], tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        curate(config(raw[0], tmp_path / "out", tiny_tokenizer_dir, category=("poetry",), trained_by=()))
    assert caught.value.fix is not None
    assert "--category" in caught.value.fix
    assert "math (" in caught.value.fix
    assert "chat (" in caught.value.fix


def test_an_include_that_no_file_matches_lists_the_files(
    raw: tuple[Path, dict[str, str]], tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="name contains zzz") as caught:
        curate(config(raw[0], tmp_path / "out", tiny_tokenizer_dir, include=("zzz",)))
    assert caught.value.fix is not None
    assert "part-0.jsonl, part-1.jsonl" in caught.value.fix
