"""All shapes by name, and a random provider's wording."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from emulators.scripted.dead_grant_shapes import DEAD_GRANT_SHAPES
from emulators.scripted.invented_shapes import invent
from emulators.scripted.operator_shapes import OPERATOR_SHAPES, OTHER_CLIENT_SHAPES, WRONG_CLIENT_SHAPES
from emulators.scripted.shape import Shape, Trouble
from emulators.scripted.success_shapes import SUCCESS_SHAPES
from emulators.scripted.transient_shapes import (
    SLOW_SHAPES,
    THROTTLED_SHAPES,
    TRANSIENT_SHAPES,
    UNAVAILABLE_SHAPES,
)

LIBRARY: Mapping[str, Shape] = {
    **SUCCESS_SHAPES,
    **SLOW_SHAPES,
    **DEAD_GRANT_SHAPES,
    **OPERATOR_SHAPES,
    **TRANSIENT_SHAPES,
}


@dataclass(frozen=True, slots=True)
class Wording:
    """The shape that a provider gives in each situation."""

    success: Shape = SUCCESS_SHAPES["standard"]
    dead_grant: Shape = DEAD_GRANT_SHAPES["invalid_grant"]
    wrong_client: Shape = WRONG_CLIENT_SHAPES["invalid_client_401"]
    other_client: Shape = OTHER_CLIENT_SHAPES["other_client"]
    throttled: Shape = THROTTLED_SHAPES["throttled_seconds"]
    unavailable: Shape = UNAVAILABLE_SHAPES["maintenance"]


def random_wording(random: Random, *, invented: float = 0.0) -> Wording:
    """Choose a provider's words.

    A share `invented` (0 to 1) of them is in no library.
    Success is chosen among the shapes that omit nothing, as most callers can do no more than read those.
    """

    def choose(shapes: Mapping[str, Shape], trouble: Trouble) -> Shape:
        if random.random() < invented:
            return invent(trouble, random)
        return random.choice(list(shapes.values()))

    return Wording(
        success=random.choice([shape for shape in SUCCESS_SHAPES.values() if not shape.omits]),
        dead_grant=choose(DEAD_GRANT_SHAPES, Trouble.USER),
        wrong_client=choose(WRONG_CLIENT_SHAPES, Trouble.OPERATOR),
        other_client=random.choice(list(OTHER_CLIENT_SHAPES.values())),
        throttled=choose(THROTTLED_SHAPES, Trouble.NOBODY),
        unavailable=choose(UNAVAILABLE_SHAPES, Trouble.NOBODY),
    )
