"""What a teacher said once: what is read is what it says, and an interrupted pass goes on to the same bytes."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bethink.chat.tokenizer import ChatTokenizer
from bethink.core.console import Progress
from bethink.core.errors import OutputError
from bethink.models.locate import locate
from bethink.train.batch import packed_batches
from bethink.train.distill.config import DistillConfig
from bethink.train.distill.run import run_distill
from bethink.train.distill.store import Part, claim_store, fill, learned_starts
from bethink.train.distill.target import coarsened
from bethink.train.distill.teacher import Teacher
from bethink.train.metrics import read_metrics
from bethink.train.token_store import TokenStore, build_stores
from train.conftest import sum_rows, write_rows

Make = Callable[..., DistillConfig]
K = 6


@pytest.fixture
def teacher(teacher_dir: Path) -> Teacher:
    tokens = ChatTokenizer.load(teacher_dir).vocab_size
    return Teacher.load(
        locate(str(teacher_dir)), tokens, 1.3, dtype=torch.float32, device=torch.device("cpu")
    )


@pytest.fixture
def rows(tiny_model_dir: Path, tmp_path: Path) -> TokenStore:
    """200 rows: several blocks."""
    file = write_rows(tmp_path / "many.jsonl", sum_rows(tiny_model_dir, 200))
    return build_stores([file], ChatTokenizer.load(tiny_model_dir), tmp_path / "tokens", max_tokens=500)[0]


def filled(part: Part, teacher: Teacher, interrupted: Callable[[], bool] = lambda: False) -> None:
    with Progress("teacher", part.tokens) as progress:
        fill(part, teacher, K, capacity=300, progress=progress, interrupted=interrupted)


def test_what_is_read_is_what_the_teacher_says(teacher: Teacher, rows: TokenStore, tmp_path: Path) -> None:
    part = Part(tmp_path / "said", rows)
    filled(part, teacher)
    stored, starts = part.open(K), learned_starts(rows)
    assert starts[-1] == part.tokens == sum(len(rows[i].completion_ids) for i in range(len(rows)))
    chosen = random.sample(range(len(rows)), 9)
    for batch in packed_batches([rows[i] for i in chosen], 300):
        places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chosen])
        place_N = torch.from_numpy(places[batch.source_N.numpy()])
        everything = slice(0, len(place_N))
        found = stored.targets(batch, place_N)(everything)
        expected = coarsened(teacher.targets(batch, place_N)(everything).logprob_CO, K)
        assert found.token_ids_CK is not None
        assert expected.token_ids_CK is not None
        torch.testing.assert_close(found.logprob_CO, expected.logprob_CO, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.logprob_CO.exp().sum(1), torch.ones(len(place_N)), rtol=0, atol=1e-6)
        same = (found.token_ids_CK == expected.token_ids_CK).float().mean()
        assert same > 0.99, "only ties may be in another order"


def test_an_interrupted_pass_goes_on_to_the_same_bytes(
    teacher: Teacher, rows: TokenStore, tmp_path: Path
) -> None:
    straight, stopped = Part(tmp_path / "straight", rows), Part(tmp_path / "stopped", rows)
    filled(straight, teacher)
    stops = iter([random.random() < 0.5, True])
    filled(stopped, teacher, lambda: next(stops))
    assert not stopped.whole
    unfinished = tmp_path / "stopped.part"
    with open(unfinished / "logprobs.f16", "ab") as handle:
        handle.write(b"what a killed process wrote after its last save")
    filled(stopped, teacher)
    assert stopped.whole
    assert not unfinished.exists()
    for name in ("token_ids.i32", "logprobs.f16"):
        assert (stopped.directory / name).read_bytes() == (straight.directory / name).read_bytes()


def test_ctrl_c_while_the_teacher_is_asked_keeps_what_it_said(
    make_distill: Make, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "many.jsonl", sum_rows(tiny_model_dir, 300))
    settings = {"data": data, "steps": None, "batch_size": 300, "store_teacher": K}
    whole = make_distill(output=tmp_path / "whole", **settings)
    stopped = make_distill(output=tmp_path / "stopped", **settings)

    def interrupt() -> None:
        while not (stopped.store / "train.part").exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_distill(stopped)
    assert "--resume" in capsys.readouterr().err
    assert not (stopped.store / "train").exists()
    run_distill(stopped.model_copy(update={"resume": True}))
    run_distill(whole)
    for name in ("token_ids.i32", "logprobs.f16"):
        assert (stopped.store / "train" / name).read_bytes() == (whole.store / "train" / name).read_bytes()


def test_a_store_of_another_teacher_is_refused_by_name(tmp_path: Path) -> None:
    claim_store(tmp_path / "said", {"teacher": "a", "likeliest": 4})
    claim_store(tmp_path / "said", {"teacher": "a", "likeliest": 4})
    with pytest.raises(OutputError, match="likeliest differ"):
        claim_store(tmp_path / "said", {"teacher": "a", "likeliest": 5})
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").touch()
    with pytest.raises(OutputError, match="something else"):
        claim_store(tmp_path / "else", {})


def test_training_from_the_store_is_training_with_the_teacher(make_distill: Make, tmp_path: Path) -> None:
    common = {"held_out": 0.2, "eval_every": 2, "sample_tokens": 0, "full": True, "temperature": 1.5}
    live = run_distill(make_distill(output=tmp_path / "live", **common))
    everything = run_distill(make_distill(output=tmp_path / "all", store_teacher=10_000, **common))
    for name in ("loss", "divergence", "eval_divergence"):
        assert everything.last[name] == pytest.approx(live.last[name], rel=1e-3)
    assert everything.last["agreement"] == pytest.approx(live.last["agreement"], abs=0.02)
    few = run_distill(make_distill(output=tmp_path / "few", store_teacher=2, **common))
    assert few.last["divergence"] < live.last["divergence"], "a coarse look finds less"


def test_a_store_serves_other_runs_without_the_teacher(
    make_distill: Make, tmp_path: Path, teacher_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = tmp_path / "said"
    run_distill(make_distill(output=tmp_path / "one", store_teacher=4, teacher_store=said))
    assert "asking the teacher" in capsys.readouterr().err
    before = (said / "train" / "logprobs.f16").stat().st_mtime_ns
    run_distill(make_distill(output=tmp_path / "two", store_teacher=4, teacher_store=said, lr=1e-2))
    assert "asking the teacher" not in capsys.readouterr().err
    assert (said / "train" / "logprobs.f16").stat().st_mtime_ns == before
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert one[0]["divergence"] == two[0]["divergence"]
    with pytest.raises(OutputError, match="temperature differ"):
        run_distill(
            make_distill(output=tmp_path / "three", store_teacher=4, teacher_store=said, temperature=2.0)
        )
