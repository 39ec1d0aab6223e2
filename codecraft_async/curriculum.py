"""Public path of tasks, samplers and graders (implemented in ``codecraft_curriculum``)."""

from __future__ import annotations

from codecraft_curriculum import (
    BUILTIN_CASE_SOURCES as BUILTIN_CASE_SOURCES,
)
from codecraft_curriculum import (
    FIRST_TASKS as FIRST_TASKS,
)
from codecraft_curriculum import (
    WORKSPACE_MTIME_S as WORKSPACE_MTIME_S,
)
from codecraft_curriculum import (
    WORKSPACE_PATH as WORKSPACE_PATH,
)
from codecraft_curriculum import (
    AdaptiveSampler as AdaptiveSampler,
)
from codecraft_curriculum import (
    AllOf as AllOf,
)
from codecraft_curriculum import (
    Answer as Answer,
)
from codecraft_curriculum import (
    AnswersGrader as AnswersGrader,
)
from codecraft_curriculum import (
    AnyOf as AnyOf,
)
from codecraft_curriculum import (
    Case as Case,
)
from codecraft_curriculum import (
    CaseSource as CaseSource,
)
from codecraft_curriculum import (
    CommandOutcome as CommandOutcome,
)
from codecraft_curriculum import (
    CommandSpec as CommandSpec,
)
from codecraft_curriculum import (
    Commit as Commit,
)
from codecraft_curriculum import (
    CsvGrader as CsvGrader,
)
from codecraft_curriculum import (
    Curriculum as Curriculum,
)
from codecraft_curriculum import (
    CurriculumError as CurriculumError,
)
from codecraft_curriculum import (
    Dataset as Dataset,
)
from codecraft_curriculum import (
    Exchange as Exchange,
)
from codecraft_curriculum import (
    ExitStatusGrader as ExitStatusGrader,
)
from codecraft_curriculum import (
    FileGrader as FileGrader,
)
from codecraft_curriculum import (
    FixedCases as FixedCases,
)
from codecraft_curriculum import (
    GitCloneGrader as GitCloneGrader,
)
from codecraft_curriculum import (
    GitRepository as GitRepository,
)
from codecraft_curriculum import (
    Grade as Grade,
)
from codecraft_curriculum import (
    Grader as Grader,
)
from codecraft_curriculum import (
    GradingSandbox as GradingSandbox,
)
from codecraft_curriculum import (
    JsonGrader as JsonGrader,
)
from codecraft_curriculum import (
    Learner as Learner,
)
from codecraft_curriculum import (
    LookAhead as LookAhead,
)
from codecraft_curriculum import (
    Match as Match,
)
from codecraft_curriculum import (
    OutputGrader as OutputGrader,
)
from codecraft_curriculum import (
    PartialSolution as PartialSolution,
)
from codecraft_curriculum import (
    ProgramGrader as ProgramGrader,
)
from codecraft_curriculum import (
    PythonCases as PythonCases,
)
from codecraft_curriculum import (
    RandomSource as RandomSource,
)
from codecraft_curriculum import (
    Record as Record,
)
from codecraft_curriculum import (
    Resumable as Resumable,
)
from codecraft_curriculum import (
    Sampler as Sampler,
)
from codecraft_curriculum import (
    SamplerStateError as SamplerStateError,
)
from codecraft_curriculum import (
    SequentialSampler as SequentialSampler,
)
from codecraft_curriculum import (
    ServerGrader as ServerGrader,
)
from codecraft_curriculum import (
    SqliteGrader as SqliteGrader,
)
from codecraft_curriculum import (
    Task as Task,
)
from codecraft_curriculum import (
    TaskFileError as TaskFileError,
)
from codecraft_curriculum import (
    TaskLimits as TaskLimits,
)
from codecraft_curriculum import (
    TreeEntry as TreeEntry,
)
from codecraft_curriculum import (
    TreeGrader as TreeGrader,
)
from codecraft_curriculum import (
    Ungraded as Ungraded,
)
from codecraft_curriculum import (
    UniformSampler as UniformSampler,
)
from codecraft_curriculum import (
    UnitTestsGrader as UnitTestsGrader,
)
from codecraft_curriculum import (
    UnknownTask as UnknownTask,
)
from codecraft_curriculum import (
    WeightedSampler as WeightedSampler,
)
from codecraft_curriculum import (
    Workspace as Workspace,
)
from codecraft_curriculum import (
    WorkspaceError as WorkspaceError,
)
from codecraft_curriculum import (
    WorkspaceFile as WorkspaceFile,
)
from codecraft_curriculum import (
    builtin_curriculum as builtin_curriculum,
)
from codecraft_curriculum import (
    load_curriculum as load_curriculum,
)
from codecraft_curriculum import (
    load_dataset as load_dataset,
)
from codecraft_curriculum import (
    load_gym_codecraft as load_gym_codecraft,
)
from codecraft_curriculum import (
    load_task as load_task,
)

__all__ = [
    "BUILTIN_CASE_SOURCES",
    "FIRST_TASKS",
    "WORKSPACE_MTIME_S",
    "WORKSPACE_PATH",
    "AdaptiveSampler",
    "AllOf",
    "Answer",
    "AnswersGrader",
    "AnyOf",
    "Case",
    "CaseSource",
    "CommandOutcome",
    "CommandSpec",
    "Commit",
    "CsvGrader",
    "Curriculum",
    "CurriculumError",
    "Dataset",
    "Exchange",
    "ExitStatusGrader",
    "FileGrader",
    "FixedCases",
    "GitCloneGrader",
    "GitRepository",
    "Grade",
    "Grader",
    "GradingSandbox",
    "JsonGrader",
    "Learner",
    "LookAhead",
    "Match",
    "OutputGrader",
    "PartialSolution",
    "ProgramGrader",
    "PythonCases",
    "RandomSource",
    "Record",
    "Resumable",
    "Sampler",
    "SamplerStateError",
    "SequentialSampler",
    "ServerGrader",
    "SqliteGrader",
    "Task",
    "TaskFileError",
    "TaskLimits",
    "TreeEntry",
    "TreeGrader",
    "Ungraded",
    "UniformSampler",
    "UnitTestsGrader",
    "UnknownTask",
    "WeightedSampler",
    "Workspace",
    "WorkspaceError",
    "WorkspaceFile",
    "builtin_curriculum",
    "load_curriculum",
    "load_dataset",
    "load_gym_codecraft",
    "load_task",
]
