"""The layouts known by name."""

from __future__ import annotations

from bethink.tasks.layouts.choices import gpqa, mmlu, science_choice
from bethink.tasks.layouts.columns import ColumnMapping, MappingFunction
from bethink.tasks.layouts.mathematics import aime, gsm8k, math500
from bethink.tasks.layouts.programs import codecontests, humaneval, leetcode, mbpp, program_tests

LAYOUTS: dict[str, MappingFunction] = {
    "plain": ColumnMapping(),
    "gsm8k": gsm8k,
    "math500": math500,
    "mmlu": mmlu,
    "gpqa": gpqa,
    "openbookqa": science_choice,
    "arc": science_choice,
    "aime": aime,
    "humaneval": humaneval,
    "mbpp": mbpp,
    "leetcode": leetcode,
    "apps": program_tests,
    "taco": program_tests,
    "codecontests": codecontests,
}
"""`plain` is question, answer, grader and, if there, id."""
