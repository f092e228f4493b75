"""Answers in unknown words, for property tests."""

from collections.abc import Callable
from random import Random
from typing import Any

from emulators.scripted.script import Script, html_answer, json_answer, text_answer
from emulators.scripted.shape import Exchange, Json, Shape, Trouble
from emulators.scripted.success_shapes import standard

REFUSALS = (400, 401, 403, 404, 409, 410, 412, 418, 422, 424, 428, 451, 499)
OUTAGES = (500, 501, 502, 503, 504, 507, 508, 520, 521, 522, 524, 529, 530, 599)
_ONSETS = ("b", "br", "d", "f", "g", "k", "kl", "l", "m", "n", "p", "r", "s", "t", "tr", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u")
_WRAPPERS = ("error", "errors", "fault", "failure", "problem", "result", "status", "detail", "response")
_NAMES = ("code", "reason", "type", "error", "errorCode", "errorType", "title", "key", "name")


def invent(trouble: Trouble, random: Random) -> Shape:
    """Make a shape that is in no library.

    The same for the same state of `random`.
    A refusal has a random 4xx status, an outage a random 5xx status, a success a pair below random names: its
    refresh token is always called `refresh_token`, at some depth.
    """
    name = f"invented_{invent_word(random)}_{random.randrange(10**6)}"
    match trouble:
        case Trouble.NONE:
            return _success(name, random)
        case Trouble.NOBODY:
            script = _refusal(random, random.choice(OUTAGES))
        case Trouble.USER | Trouble.OPERATOR:
            script = _refusal(random, random.choice(REFUSALS))
    return Shape(name, trouble, carried_out=False, source="invented", write=lambda _: script)


def invent_word(random: Random) -> str:
    """Make a word that means nothing."""
    return "".join(random.choice(_ONSETS) + random.choice(_VOWELS) for _ in range(random.randint(3, 5)))


def _refusal(random: Random, status: int) -> Script:
    writers: tuple[Callable[[Random, int], Script], ...] = (
        _json,
        _json,
        _json,
        _standard_form,
        _page,
        _empty,
    )
    return random.choice(writers)(random, status)


def _json(random: Random, status: int) -> Script:
    return json_answer(_nested(random, _error(random)), status)


def _standard_form(random: Random, status: int) -> Script:
    return json_answer({"error": _code(random), "error_description": _sentence(random)}, status)


def _page(random: Random, status: int) -> Script:
    return random.choice((html_answer, text_answer))(_sentence(random), status)


def _empty(_: Random, status: int) -> Script:
    return Script(status, content_type=None)


def _error(random: Random) -> Any:
    """Make an error's core: a word, number or object."""
    code = random.choice((_code(random), random.randint(1, 99_999)))
    match random.randrange(3):
        case 0:
            return code
        case 1:
            return {random.choice(_NAMES): code, "message": _sentence(random)}
        case _:
            return {"message": _sentence(random)}


def _nested(random: Random, value: Any) -> Json:
    """Wrap a value in an object, up to three deep."""
    for _ in range(random.randint(0, 2)):
        wrapped = {random.choice(_WRAPPERS): value, invent_word(random): random.randint(0, 9)}
        value = random.choice((wrapped, [value]))
    return {random.choice(_WRAPPERS): value, invent_word(random): _sentence(random)}


def _code(random: Random) -> str:
    words = [invent_word(random) for _ in range(random.randint(1, 3))]
    match random.randrange(4):
        case 0:
            return "_".join(words)
        case 1:
            return "_".join(words).upper()
        case 2:
            return "".join(word.title() for word in words)
        case _:
            return ".".join(words)


def _sentence(random: Random) -> str:
    words = [invent_word(random) for _ in range(random.randint(2, 7))]
    return f"{' '.join(words).capitalize()}."


def _success(name: str, random: Random) -> Shape:
    depth, misnamed = random.randint(0, 3), random.random() < 0.5
    names = [invent_word(random) for _ in range(depth)]
    access_name, noise = invent_word(random), invent_word(random)
    keeps_end = random.random() < 0.5

    def write(exchange: Exchange) -> Script:
        fields = standard(exchange, **{noise: 7})
        if misnamed:
            fields[access_name] = fields.pop("access_token")
        if not keeps_end:
            fields.pop("expires_in", None)
        body: Any = fields
        for wrapper in names:
            body = {wrapper: body, f"{noise}_{wrapper}": True}
        return json_answer(body)

    omitted = [
        *(["access_token"] if misnamed or depth else []),
        *([] if keeps_end and not depth else ["end"]),
    ]
    return Shape(
        name, Trouble.NONE, carried_out=True, source="invented", write=write, omits=frozenset(omitted)
    )
