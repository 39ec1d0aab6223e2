"""Lists of jobs, and what they print."""

from __future__ import annotations

import random
from collections.abc import Sequence

from codecraft_curriculum import Case, Match

# A job waits until as many are at work as there may be, so that too few show as a number, whatever the machine's speed.
_MEETING = """touch run/$$; n=0
while [ "$(ls run | wc -l)" -lt MOST ] && [ ! -e met ] && [ $n -lt 40 ]; do sleep 0.02; n=$((n+1)); done
ls run | wc -l >> most; [ "$(ls run | wc -l)" -lt MOST ] || touch met
sleep 0.05; ls run | wc -l >> most; rm run/$$; echo WORD"""


def results(rng: random.Random, /) -> Sequence[Case]:
    """Return jobs that end in different ways and at different times."""
    status, word = rng.randint(2, 99), _word(rng)
    jobs: list[tuple[str, str, str]] = [
        (f"sleep 0.4; echo {word}", "0", f"{word}\n"),
        (f"echo {word} >&2; echo out; exit {status}", str(status), f"{word}\nout\n"),
        (f"printf {word}; kill -TERM $$", "143", word),
        ("cat", "0", ""),
        (f"printf '%s\\n' '#{word}' \"$PWD\" | head -n 1", "0", f"#{word}\n"),
    ]
    rng.shuffle(jobs)
    return [_case(rng, jobs, rng.randint(2, 3)), _case(rng, [(f"echo {word}", "0", f"{word}\n")], 1)]


def at_once(rng: random.Random, /) -> Sequence[Case]:
    """Return jobs that count how many are at work."""
    most = rng.randint(3, 4)
    words = [_word(rng) for _ in range(most * 2)]
    lines = [" ".join(_MEETING.replace("MOST", str(most)).replace("WORD", word).split("\n")) for word in words]
    lines = [
        line.replace("n=0 while", "n=0; while").replace("done ls", "done; ls").replace("met sleep", "met; sleep")
        for line in lines
    ]
    said = "".join(f"{number} 0\n{word}\n" for number, word in enumerate(words, 1))
    return [Case(Match(f"{said}{most}\n"), (str(most), "jobs"), files={"jobs": "".join(f"{line}\n" for line in lines)})]


def time_limit(rng: random.Random, /) -> Sequence[Case]:
    """Return a job that would go on for ever, and starts another process that does, beside quick ones."""
    word = _word(rng)
    beat = "(while :; do date +%N > beat; sleep 0.1; done) & "
    lines = [f"echo {word}", f"{beat}echo {word}; sleep 60", f"sleep 0.1; echo {word}"]
    said = f"1 0\n{word}\n2 timeout\n{word}\n3 0\n{word}\nquiet\n"
    return [Case(Match(said), ("2", "jobs"), files={"jobs": "\n".join(lines) + "\n"})]


def _case(rng: random.Random, jobs: list[tuple[str, str, str]], most: int) -> Case:
    lines, said = [f"# {_word(rng)}"], ""
    for command, status, printed in jobs:
        if rng.random() < 0.4:
            lines.append(rng.choice(["", "   ", f"# echo {_word(rng)}"]))
        lines.append(command)
        said += f"{len(lines)} {status}\n{printed}"
    files = {"list of jobs": "\n".join(lines) + "\n"}
    failed = any(status != "0" for _, status, _ in jobs)
    return Case(Match(said), (str(most), "list of jobs"), files=files, exit_status=int(failed))


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7))
