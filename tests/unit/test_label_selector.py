"""Label selectors mean what they say, and say where they cannot be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.errors import InvalidInput
from controlplane.domain.label_selector import (
    Relation,
    Requirement,
    parse_label_selector,
)

KEYS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,20}[A-Za-z0-9])?", fullmatch=True)
VALUES = st.from_regex(r"[A-Za-z0-9_.:/@+-]{0,20}", fullmatch=True)


def in_words(requirement: Requirement) -> str:
    values = ",".join(sorted(requirement.values))
    match requirement.relation:
        case Relation.EXISTS:
            return requirement.key
        case Relation.MISSING:
            return f"!{requirement.key}"
        case relation:
            return f"{requirement.key} {relation.value} ({values})"


REQUIREMENTS = st.one_of(
    st.builds(Requirement, key=KEYS, relation=st.sampled_from([Relation.EXISTS, Relation.MISSING])),
    st.builds(
        Requirement,
        key=KEYS,
        relation=st.sampled_from([Relation.IN, Relation.NOT_IN]),
        values=st.frozensets(VALUES, min_size=1, max_size=4),
    ),
)


@given(st.lists(REQUIREMENTS, min_size=1, max_size=5))
def test_what_is_written_is_read(requirements: list[Requirement]) -> None:
    text = " , ".join(map(in_words, requirements))
    assert parse_label_selector(text) == tuple(requirements)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_at_a_place_in_it(text: str) -> None:
    try:
        assert parse_label_selector(text)
    except InvalidInput as error:
        refusal = error
    else:
        return
    position = refusal.extra["position"]
    assert refusal.code == "selector-invalid"
    assert isinstance(position, int)
    assert 1 <= position <= len(text) + 1


@given(REQUIREMENTS, st.dictionaries(KEYS, VALUES, max_size=4))
def test_each_relation_has_its_opposite(requirement: Requirement, labels: dict[str, str]) -> None:
    opposite = {
        Relation.IN: Relation.NOT_IN,
        Relation.NOT_IN: Relation.IN,
        Relation.EXISTS: Relation.MISSING,
        Relation.MISSING: Relation.EXISTS,
    }[requirement.relation]
    other = Requirement(key=requirement.key, relation=opposite, values=requirement.values)
    assert requirement.holds(labels) != other.holds(labels)


@pytest.mark.parametrize(
    ("text", "labels", "holds"),
    [
        ("a=1", {"a": "1"}, True),
        ("a==1", {"a": "1"}, True),
        ("a=1", {}, False),
        ("a!=1", {}, True),
        ("a!=1", {"a": "1"}, False),
        ("a in (1,2)", {"a": "2"}, True),
        ("a notin (1,2)", {"a": "2"}, False),
        ("in", {"in": ""}, True),
        ("a", {"b": ""}, False),
        ("!a,b", {"b": ""}, True),
        ("a=", {"a": ""}, True),
    ],
)
def test_by_example(text: str, labels: dict[str, str], holds: bool) -> None:
    found = all(requirement.holds(labels) for requirement in parse_label_selector(text))
    assert found == holds
