"""Rollouts: completions of a step's problems, graded while others are still being sampled, and what each earned.

Puts the engine, the graders and the rewards together; which problems a step takes is the curriculum's business, what is learned from the
completions update.py's. The token ids and log-probabilities kept here are the engine's own: nothing is tokenized again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import fmean

from bethink.chat.render import Prompt
from bethink.chat.toggle import Mode
from bethink.core.seeds import derive_seed
from bethink.engine.api import FinishReason
from bethink.engine.dialogue import LocalDialogue, Question, Reply, Sampling
from bethink.tasks.problem import Problem
from bethink.train.rl.config import ModeShares
from bethink.verify.code.pool import Sandboxes, shared_sandboxes
from bethink.verify.grade import GradeItem, as_item, grade_many
from bethink.verify.pool import WorkerPool
from bethink.verify.rewards.attempt import Attempt
from bethink.verify.rewards.compose import Rewards, Scored
from bethink.verify.verdict import Verdict


@dataclass(slots=True)
class Rollout:
    """One completion.

    prompt_ids, token_ids, logprobs: what the engine was given and what it drew. counts: it is learned from; one that could not be
    graded, or that the run masks, is not. reward: the total. kl_penalty: what a KL term in the reward takes off it before advantages, None
    where there is no such term. advantage: see update.py.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    attempt: Attempt
    scored: Scored
    counts: bool
    reward: float
    kl_penalty: float | None = None
    advantage: float = 0.0


@dataclass(slots=True)
class Group:
    """The completions of one problem in one mode.

    index: the problem's place among all; refill: the draw it came from; occurrence: how often the problem was in that draw before.
    """

    index: int
    problem: Problem
    mode: Mode
    rollouts: list[Rollout] = field(default_factory=list)
    refill: int = 0
    occurrence: int = 0

    @property
    def counted(self) -> list[Rollout]:
        """Those that are learned from."""
        return [rollout for rollout in self.rollouts if rollout.counts]

    @property
    def has_signal(self) -> bool:
        """Whether there is anything to prefer: completions that count earned different rewards, or stretches of them did.

        A KL term is no signal: two completions hardly ever pay the same for it.
        """
        counted = self.counted
        rewards = {rollout.reward for rollout in counted}
        return len(rewards) > 1 or any(rollout.scored.credits for rollout in counted)

    @property
    def paid_though_wrong(self) -> list[bool]:
        """Of each completion: it was judged, was not right, and still earned more than the mean of those that count."""
        rewards = [rollout.reward for rollout in self.counted]
        if len(set(rewards)) < 2:
            return [False] * len(self.rollouts)
        mean = fmean(rewards)
        return [
            rollout.counts
            and rollout.attempt.verdict.counts
            and not rollout.attempt.verdict.correct
            and rollout.reward > mean
            for rollout in self.rollouts
        ]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a draw asks: its groups, still empty, and their questions, one a completion, with the prompt of each.

    The id of a question is the place of its group and its number in it, as in 3/0.
    """

    groups: list[Group]
    questions: list[Question]
    prompts: list[Prompt]

    @property
    def problems(self) -> dict[str, Problem]:
        """Question id → the problem asked."""
        return {
            question.id: self.groups[int(question.id.partition("/")[0])].problem
            for question in self.questions
        }


@dataclass(frozen=True, slots=True)
class Graders:
    """Where slow graders and where programs run."""

    pool: WorkerPool
    sandboxes: Callable[[], Sandboxes] = shared_sandboxes


@dataclass(frozen=True, slots=True)
class Sampler:
    """How a run samples. Each completion has a random stream of its own, so that a step can be repeated.

    mask_truncated: a completion cut at the token limit is not learned from.
    """

    dialogue: LocalDialogue
    problems: Sequence[Problem]
    rewards: Rewards
    graders: Graders
    modes: ModeShares
    group_size: int
    max_tokens: int
    seed: int
    mask_truncated: bool = False

    def ask(self, step: int, indices: Sequence[int], refill: int = 0) -> Asked:
        """What is asked of these problems, a problem rolled out in both modes giving two groups. Touches no model.

        Raises TemplateError for a problem that cannot be rendered.
        """
        groups = [
            Group(index, self.problems[index], mode, refill=refill, occurrence=occurrence)
            for index, occurrence in zip(indices, occurrences(indices), strict=True)
            for mode in self._modes_of(step, index, refill, occurrence)
        ]
        questions = [
            Question(
                f"{place}/{number}",
                group.problem.messages,
                group.mode,
                Sampling(self.max_tokens, 1.0, seed=self._seed(step, refill, group, number)),
            )
            for place, group in enumerate(groups)
            for number in range(self.group_size)
        ]
        return Asked(groups, questions, self.dialogue.prompts(questions))

    def groups(self, asked: Asked) -> list[Group]:
        """The groups asked for, with what was sampled, graded and rewarded."""
        answers = answer_and_grade(
            self.dialogue, asked.questions, asked.problems, self.graders, prompts=asked.prompts
        )
        think = self.dialogue.renderer.think
        for place, group in enumerate(asked.groups):
            ids = [f"{place}/{number}" for number in range(self.group_size)]
            attempts = [
                Attempt(
                    problem=group.problem,
                    mode=group.mode,
                    text=reply.text,
                    parsed=reply.parsed,
                    verdict=verdict,
                    tokens=len(reply.token_ids),
                    truncated=_truncated(reply),
                    opened=reply.opened,
                    think=think,
                    prompt_ids=reply.prompt_ids,
                    token_ids=reply.token_ids,
                )
                for reply, verdict in map(answers.__getitem__, ids)
            ]
            scores = self.rewards.score(attempts)
            for id_, attempt, scored in zip(ids, attempts, scores, strict=True):
                group.rollouts.append(self._rollout(answers[id_][0], attempt, scored))
        return asked.groups

    def floor_seconds(self) -> float:
        """Least time the device can take for all that was sampled so far; 0 where its speed is not known."""
        return self.dialogue.floor_seconds() or 0.0

    def _rollout(self, reply: Reply, attempt: Attempt, scored: Scored) -> Rollout:
        masked = self.mask_truncated and attempt.truncated
        return Rollout(
            prompt_ids=reply.prompt_ids,
            token_ids=reply.token_ids,
            logprobs=reply.logprobs,
            attempt=attempt,
            scored=scored,
            counts=scored.total is not None and not masked and bool(reply.token_ids),
            reward=scored.total or 0.0,
        )

    def _seed(self, step: int, refill: int, group: Group, number: int) -> int:
        # A problem drawn again goes on counting where its completions before it stopped.
        number += group.occurrence * self.group_size
        return derive_seed(self.seed, "rollout", step, refill, group.problem.id, group.mode.value, number)

    def _modes_of(self, step: int, index: int, refill: int, occurrence: int) -> tuple[Mode, ...]:
        """In which modes a problem is rolled out, drawn by share."""
        random = Random(derive_seed(self.seed, "mode", step, refill, self.problems[index].id))
        name = random.choices(list(self.modes), list(self.modes.values()), k=occurrence + 1)[-1]
        return (Mode.ON, Mode.OFF) if name == "both" else (Mode(name),)


def occurrences(indices: Sequence[int]) -> list[int]:
    """Of each: how often it stood before."""
    seen: Counter[int] = Counter()
    found = []
    for index in indices:
        found.append(seen[index])
        seen[index] += 1
    return found


def answer_and_grade(
    dialogue: LocalDialogue,
    questions: Sequence[Question],
    problems: Mapping[str, Problem],
    graders: Graders,
    *,
    prompts: Sequence[Prompt] | None = None,
) -> dict[str, tuple[Reply, Verdict]]:
    """The reply to every question and its verdict, by id, in the order they finish.

    problems: by the id of their question; prompts: of the questions, where they are rendered already.
    """
    replies: dict[str, Reply] = {}

    def finished() -> Iterator[GradeItem]:
        """Grading begins while the rest is sampled."""
        for reply in dialogue.answer(questions, prompts=prompts):
            replies[reply.id] = reply
            yield as_item(problems[reply.id], reply.text, truncated=_truncated(reply), opened=reply.opened)

    think = dialogue.renderer.think
    verdicts = list(grade_many(finished(), pool=graders.pool, sandboxes=graders.sandboxes, think=think))
    return dict(zip(replies, zip(replies.values(), verdicts, strict=True), strict=True))


def _truncated(reply: Reply) -> bool:
    return reply.finish_reason is FinishReason.LENGTH
