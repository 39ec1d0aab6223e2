"""Agents that play environments: naive, scripted, human, and language models; and a teacher that grades.

    async with ChatClient(Endpoint.find(model="gpt-5-mini")) as client:
        agent = ModelAgent(client, use_tools=True)
        result = await run_episode(env, agent)

`codecraft_async.agents.langchain` has LangChain's models as agents; it needs the extra ``langchain``.
"""

from codecraft_async.agents.agent import (
    CODE_CRAFT_CHOICES,
    SHELL_CHOICES,
    Agent,
    ExpertAgent,
    NaiveAgent,
    ScriptedAgent,
)
from codecraft_async.agents.dialects import CodeCraftDialect, Dialect, ShellDialect
from codecraft_async.agents.episodes import (
    AsyncEnv,
    EpisodeBatch,
    EpisodePlan,
    EpisodeResult,
    EpisodeStep,
    run_episode,
    run_episodes,
)
from codecraft_async.agents.errors import AgentError, AgentFailed, AgentLeft, MalformedAnswer, TeacherFailed
from codecraft_async.agents.history import History
from codecraft_async.agents.human import HumanAgent
from codecraft_async.agents.model import ModelAgent
from codecraft_async.agents.teacher import ModelTeacher

__all__ = [
    "CODE_CRAFT_CHOICES",
    "SHELL_CHOICES",
    "Agent",
    "AgentError",
    "AgentFailed",
    "AgentLeft",
    "AsyncEnv",
    "CodeCraftDialect",
    "Dialect",
    "EpisodeBatch",
    "EpisodePlan",
    "EpisodeResult",
    "EpisodeStep",
    "ExpertAgent",
    "History",
    "HumanAgent",
    "MalformedAnswer",
    "ModelAgent",
    "ModelTeacher",
    "NaiveAgent",
    "ScriptedAgent",
    "ShellDialect",
    "TeacherFailed",
    "run_episode",
    "run_episodes",
]
