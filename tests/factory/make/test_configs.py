"""Configuration: laid over defaults, unknown keys refused with the nearest one, equal values equal digests."""

import pytest
from pydantic import Field

from factory.core.config import Config, digest, merge, parse, parse_assignments
from manifests import UserError


class Part(Config):
    low: int = Field(default=0, ge=0)
    high: int = 9


class Whole(Config):
    part: Part = Part(high=5)
    name: str = "x"


def test_a_nested_value_keeps_the_rest_of_the_default_instance() -> None:
    assert parse(Whole, {"part": {"low": 2}}, "test") == Whole(part=Part(low=2, high=5))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nam": "y"}, r"test: nam: expected a known key, got 'nam'\. Did you mean name\?"),
        ({"part": {"hihg": 1}}, r"part\.hihg: expected a known key, got 'hihg'\. Did you mean high\?"),
        ({"part": {"low": -1}}, r"part\.low: expected greater than or equal to 0, got -1"),
        ({"part": 3}, r"part: expected .*got 3"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(values: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse(Whole, values, "test")


def test_digest_depends_on_values_and_not_on_their_order() -> None:
    assert digest({"a": 1, "b": [2.0]}) == digest({"b": [2.0], "a": 1})
    assert digest(Whole()) == digest(Whole(name="x"))
    assert digest(Whole()) != digest(Whole(name="y"))


def test_assignments_nest_and_later_ones_win() -> None:
    assert parse_assignments(["a.b=1", "a.c=[1, 2]", "a.b=x"]) == {"a": {"b": "x", "c": [1, 2]}}
    assert merge({"a": {"b": 1}, "c": 2}, {"a": {"d": 3}, "c": {}}) == {"a": {"b": 1, "d": 3}, "c": {}}
    with pytest.raises(UserError, match="KEY=VALUE"):
        parse_assignments(["a"])
