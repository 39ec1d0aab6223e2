"""Tasks for coding agents: what to do, from which files, and how it is graded.

Knows nothing of sandboxes but the two methods that graders call, and nothing of gymnasium.
"""

from __future__ import annotations

from codecraft_curriculum.adaptive import AdaptiveSampler
from codecraft_curriculum.case_sources import BUILTIN_CASE_SOURCES
from codecraft_curriculum.composition import AllOf, AnyOf
from codecraft_curriculum.curriculum import Curriculum
from codecraft_curriculum.datasets import Dataset, Record, load_dataset
from codecraft_curriculum.documents import CsvGrader, JsonGrader
from codecraft_curriculum.errors import CurriculumError, SamplerStateError, TaskFileError, UnknownTask, WorkspaceError
from codecraft_curriculum.git_clone import GitCloneGrader
from codecraft_curriculum.git_repository import Commit, GitRepository
from codecraft_curriculum.grade import Grade, Grader, Ungraded
from codecraft_curriculum.graders import (
    Answer,
    AnswersGrader,
    CommandSpec,
    ExitStatusGrader,
    FileGrader,
    OutputGrader,
)
from codecraft_curriculum.gym_codecraft import load_gym_codecraft
from codecraft_curriculum.loading import FIRST_TASKS, builtin_curriculum, load_curriculum
from codecraft_curriculum.matching import Match
from codecraft_curriculum.program import Case, CaseSource, FixedCases, ProgramGrader, UnitTestsGrader
from codecraft_curriculum.python_cases import PythonCases
from codecraft_curriculum.samplers import (
    Learner,
    LookAhead,
    RandomSource,
    Resumable,
    Sampler,
    SequentialSampler,
    UniformSampler,
    WeightedSampler,
)
from codecraft_curriculum.sandbox import WORKSPACE_PATH, CommandOutcome, GradingSandbox
from codecraft_curriculum.servers import Exchange, ServerGrader
from codecraft_curriculum.sqlite_query import SqliteGrader
from codecraft_curriculum.task import PartialSolution, Task, TaskLimits
from codecraft_curriculum.task_files import load_task
from codecraft_curriculum.tree import TreeEntry, TreeGrader
from codecraft_curriculum.workspace import WORKSPACE_MTIME_S, Workspace, WorkspaceFile

__all__ = [  # noqa: RUF022 - grouped by what one looks for
    # tasks
    "Task",
    "TaskLimits",
    "PartialSolution",
    "Workspace",
    "WorkspaceFile",
    "WORKSPACE_MTIME_S",
    "WORKSPACE_PATH",
    "GitRepository",
    "Commit",
    # curricula and samplers
    "Curriculum",
    "Sampler",
    "SequentialSampler",
    "UniformSampler",
    "WeightedSampler",
    "AdaptiveSampler",
    "LookAhead",
    "Learner",
    "Resumable",
    "RandomSource",
    # loaders
    "load_curriculum",
    "builtin_curriculum",
    "FIRST_TASKS",
    "load_task",
    "load_gym_codecraft",
    "load_dataset",
    "Dataset",
    "Record",
    # grading: the contract
    "Grade",
    "Grader",
    "GradingSandbox",
    "CommandOutcome",
    # graders
    "AllOf",
    "AnyOf",
    "AnswersGrader",
    "CsvGrader",
    "ExitStatusGrader",
    "FileGrader",
    "GitCloneGrader",
    "JsonGrader",
    "OutputGrader",
    "ProgramGrader",
    "ServerGrader",
    "SqliteGrader",
    "TreeGrader",
    "UnitTestsGrader",
    "Ungraded",
    # what graders are made of
    "Answer",
    "Case",
    "CaseSource",
    "BUILTIN_CASE_SOURCES",
    "CommandSpec",
    "Exchange",
    "FixedCases",
    "Match",
    "PythonCases",
    "TreeEntry",
    # errors
    "CurriculumError",
    "SamplerStateError",
    "TaskFileError",
    "UnknownTask",
    "WorkspaceError",
]
