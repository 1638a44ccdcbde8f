"""Events and doses of models: reading, writing, and one sentence for every mistake."""

import pytest

from cubie_flow import OdeSystem
from cubie_flow.errors import FlowError

PLAIN = {
    "name": "m",
    "states": {"x": 0.0, "z": 1.0},
    "parameters": {"p": 1.0, "q": 2.0},
    "equations": {"x": "p", "z": "q"},
}


def test_a_model_is_written_and_read_back() -> None:
    model = OdeSystem.from_mapping(
        {
            **PLAIN,
            "events": {
                "a": {"root": "x - q", "direction": "both", "set": {"x": "x/2", "p": "p + t"}},
                "b": {"when": "x > 1 or not (z < 2)", "initially": False, "persistent": False},
                "c": {"at": [1, "p", 7], "stop": True, "priority": "q - 1", "record": False},
                "d": {"at": {"start": "p", "every": 2}, "values": "trigger", "set": {"z": 0}},
            },
            "doses": [
                {"into": "x", "amount": "q", "every": "p", "count": 3},
                {"name": "drip", "into": "z", "rate": 2, "amount": "q", "at": [1, 5]},
            ],
        }
    )
    written = model.to_mapping()
    again = OdeSystem.from_mapping(written)
    assert again.content_hash == model.content_hash
    assert again.to_mapping() == written
    names = [event.name for event in model.events]
    assert names == ["a", "b", "c", "d", "dose_0", "drip_begins", "drip_ends"]
    plain = OdeSystem.from_mapping(PLAIN)
    assert model.content_hash != plain.content_hash


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"events": {"a": {"set": {"x": 1}}}}, "event a: it needs exactly one of"),
        ({"events": {"a": {"root": "x", "when": "x > 1"}}}, "exactly one of"),
        ({"events": {"a": {"root": "x", "direction": "up"}}}, "must be one of rising"),
        ({"events": {"a": {"root": "x", "sett": {}}}}, "unknown key 'sett'"),
        ({"events": {"a": {"root": "y"}}}, "'y' is not defined"),
        ({"events": {"a": {"root": "x > 1"}}}, "is true or false, not a number"),
        ({"events": {"a": {"when": "x"}}}, "is not a condition"),
        ({"events": {"a": {"at": "x"}}}, "uses 'x'; a schedule may use parameters only"),
        ({"events": {"a": {"at": [2, 1]}}}, "must increase"),
        ({"events": {"a": {"at": {"start": 0, "every": 0}}}}, "every is 0; it must be positive"),
        ({"events": {"a": {"root": "x", "set": {"w": 1}}}}, "it sets 'w', which is not a state"),
        ({"events": {"a": {"root": "x", "stop": "yes"}}}, "stop is 'yes'; it must be true or"),
        ({"doses": [{"into": "w", "amount": 1}]}, "into is 'w'; it must be a state"),
        ({"doses": [{"into": "x"}]}, "'amount' is missing"),
        ({"doses": [{"into": "x", "rate": 1}]}, "two of 'amount', 'duration' and 'rate'"),
        ({"doses": {"into": "x"}}, "'doses' must be a list"),
    ],
)
def test_mistakes(more: dict, sentence: str) -> None:
    with pytest.raises(FlowError) as caught:
        OdeSystem.from_mapping({**PLAIN, **more})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
