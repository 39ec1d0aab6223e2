"""The texts that models get, by the part that they play: try again in several forms, ReAct, plan and solve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from codecraft_async.evaluation.languages import Language
from codecraft_async.evaluation.records import EpisodeLog

__all__ = ["PLAN", "REACT", "TEMPLATES", "Template", "demonstration", "demonstrations"]

_FENCED: Final = "Answer with one fenced code block that holds the action and nothing else, such as\n{example}"
_BARE: Final = "Answer with the action alone: no explanation, no quotation marks, no code fence."


@dataclass(frozen=True, slots=True)
class Template:
    """How a model is asked. The texts have fields in braces, which `fill` takes from the language."""

    system: str
    form: str
    """How an action is written."""
    query: str = "Task: {query}{handicap}"
    observation: str = "{output}\n{reward}"
    retry: str = "No {label} code was found in your last answer, and nothing was run. {form}"
    repeats: bool = False
    """Each turn is one message that tells of all tries, for models that do no more than complete a text."""

    def fill(self, text: str, language: Language, **fields: str) -> str:
        """Return one of the texts with its fields."""
        example = f"```{language.fence}\n{language.example}\n```"
        known = {
            "label": language.label,
            "place": language.place,
            "unit": language.unit,
            "aim": language.aim,
            "course": language.course,
            "example": example,
            "bare": language.example,
        }
        form = self.form.format(**known)
        return text.format(**known, form=form, **fields)


TEMPLATES: Final[Mapping[str, Template]] = {
    "v1": Template(
        "You write {label} for a task, try after try. An action is {unit}. {aim}",
        _BARE,
        query="Task: {query}{handicap}{tries}\n\nThe next action:",
        repeats=True,
    ),
    "v2": Template(
        "{place}\n\nYou get a task in plain words and solve it by actions; an action is {unit}. {aim} {course} Use "
        "actions to look around as well.",
        _FENCED,
        observation="It printed:\n{output}\n\n{reward}The next action?",
    ),
    "v3": Template("You are an expert in {label}. {place} An action is {unit}. {aim}", _BARE),
    "v4": Template("You are an expert in {label}. {place} An action is {unit}. {aim}", _FENCED),
    "game": Template(
        "Let us play a game. {place} You are given a riddle in plain words, and in each round you make one move, which "
        "is {unit}. I make the move and tell you what came of it and how many points you have. {aim} You win with 1 "
        "point.\n\nRules: one move in each round; a move must be valid {label}; the last move is what counts.\nA good "
        "strategy: use the first moves to learn what is there, build the answer from what you have seen, and read "
        "errors with care.",
        _FENCED,
        query="The riddle: {query}{handicap}\n\nYour first move?",
        observation="Your move came to:\n{output}\n\n{reward}Your next move?",
    ),
}

REACT: Final = Template(
    "{place}\n\nYou get a task and solve it in turns of a thought, an action and an observation. The thought says what "
    "you know and what to find out next. The action is either execute[...], with {unit} between the brackets, or "
    "submit, which ends the task with what the last action came to. {aim}{demonstrations}",
    "Answer with one thought and one action, each on a line of its own, and wait for the observation:\n"
    "Thought 1: (what you think)\nAction 1: execute[{bare}]",
    query="Task: {query}{handicap}",
    observation="Observation {number}: {output}",
    retry="No action was found in your last answer, and nothing was run. {form}",
)


@dataclass(frozen=True, slots=True)
class PlanTexts:
    """What is said to an agent that plans first."""

    ask: str
    step: str
    outcome: str
    refine: str


PLAN: Final = PlanTexts(
    ask=(
        "Task: {query}{handicap}\n\nDo not act yet. Write a plan: a numbered list (1. ..., 2. ...) with one line for "
        "each step, as few steps as it takes, each of which one action can do."
    ),
    step="Do step {number} of your plan now: {step}\n{form}",
    outcome="It printed:\n{output}\n\n",
    refine="Your plan is done, and the task is not solved yet. {reward}Act on what you have seen.\n{form}",
)


def demonstration(episode: EpisodeLog) -> str:
    """Return a logged episode as ReAct's turns, for models to follow."""
    lines = [f"Task: {episode.query}"]
    for number, turn in enumerate(episode.turns, start=1):
        if turn.thought:
            lines.append(f"Thought {number}: {turn.thought}")
        lines += [f"Action {number}: execute[{turn.action}]", f"Observation {number}: {_short(turn.observation or '')}"]
    return "\n".join([*lines, f"Action {len(episode.turns) + 1}: submit"])


def demonstrations(episodes: Sequence[EpisodeLog], query: str, most: int, least_turns: int = 3) -> str:
    """Return the first *most* solved episodes of at least so many turns as demonstrations, but none of *query* itself:
    that would give its answer away."""
    chosen = [
        episode
        for episode in episodes
        if episode.is_success and len(episode.turns) >= least_turns and episode.query.strip() != query.strip()
    ]
    return "".join(f"\n\nAn example:\n{demonstration(episode)}" for episode in chosen[:most])


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 300 else f"{text[:300]} ..."
