"""How a server shares out its traffic, from a file of its own: splits, shadows and a log of answers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tunebook_spec.errors import SpecError
from tunebook_spec.fields import Frozen
from tunebook_spec.loader import load_file

Weight = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Shadow(Frozen):
    of: str
    """A name that clients ask for."""
    to: str
    """The served model that is asked the same, and whose answer only the log gets."""
    share: Share = 1.0
    """Of the requests."""


class Log(Frozen):
    path: str
    """JSON lines, added to; relative to the file that says so."""
    share: Share = 1.0
    """Of the requests; a shadow's answer is logged with the one that it stands beside."""
    personal_data: Literal["mask", "drop", "keep"] = "mask"
    """What becomes of a request or an answer in which personal data are found."""


class Traffic(Frozen):
    split: dict[str, dict[str, Weight]] = Field({})
    """By a name that clients ask for, the served models that answer to it, by weight."""
    shadow: tuple[Shadow, ...] = ()
    log: Log | None = None
    seed: int = 0
    """Of the draws for clients that say no `user`; one who does is always answered by the same model."""


def load_traffic(path: Path, served: Collection[str]) -> Traffic:
    """Read a traffic file.

    Args:
        path: YAML.
        served: The names of the models that are served.

    Raises:
        SpecError: with every problem and its line.
    """
    traffic, problem = load_file(Traffic, path, "a traffic file is a map with `split`, `shadow` or `log`")
    problems = tuple(problem(at, message) for at, message in _problems(traffic, served))
    if problems:
        raise SpecError(str(path), problems)
    return traffic


def _problems(traffic: Traffic, served: Collection[str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    known = f"served are: {', '.join(served)}"
    for name, weights in traffic.split.items():
        if name in served:
            yield ("split", name), "is the name of a served model, which has to mean that model alone"
        if not weights:
            yield ("split", name), "names no model"
        for model in weights:
            if model not in served:
                yield ("split", name, model), f"{model!r} is not served; {known}"
    for index, shadow in enumerate(traffic.shadow):
        if shadow.of not in served and shadow.of not in traffic.split:
            yield ("shadow", index, "of"), f"{shadow.of!r} is neither served nor split; {known}"
        if shadow.to not in served:
            yield ("shadow", index, "to"), f"{shadow.to!r} is not served; {known}"
    if traffic.shadow and traffic.log is None:
        yield ("shadow",), "its answers go to the log alone, and there is none: set `log`"


class Draws:
    """Decides who answers; the same for one user, and by the weights over many."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._random = random.Random(traffic.seed)

    def model(self, name: str, user: str | None) -> str:
        """The served model that answers to a name."""
        weights = self._traffic.split.get(name)
        if weights is None:
            return name
        point = self._point(name, user) * sum(weights.values())
        for model, weight in weights.items():
            point -= weight
            if point < 0:
                return model
        return next(reversed(weights))

    def shadows(self, name: str, model: str) -> list[str]:
        """The served models that are asked the same beside it."""
        drawn = [each.to for each in self._traffic.shadow if each.of == name and self.is_in(each.share)]
        return [each for each in dict.fromkeys(drawn) if each != model]

    def is_in(self, share: float) -> bool:
        return self._random.random() < share

    def _point(self, name: str, user: str | None) -> float:
        """Between 0 and 1."""
        if user is None:
            return self._random.random()
        digest = hashlib.sha256(f"{name}\0{user}".encode()).digest()
        return int.from_bytes(digest[:8]) / 2**64


def weights_of(traffic: Traffic) -> Mapping[str, str]:
    """Each split in a phrase, for the log."""
    return {
        name: ", ".join(f"{model} {weight / sum(weights.values()):.0%}" for model, weight in weights.items())
        for name, weights in traffic.split.items()
    }
