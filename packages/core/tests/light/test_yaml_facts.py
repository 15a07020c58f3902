"""What YAML 1.2 says, as run files see it."""

import math

import pytest

from mlkit_core.config.tree import parse
from mlkit_core.errors import ConfigError

SOURCE = "f:{}".format


def plain(text: str) -> object:
    return parse(text, SOURCE).plain()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-.5", -0.5),
        ("010", 10),
        ("0o17", 15),
        ("0x10", 16),
        ("true", True),
        ("off", "off"),
        ("yes", "yes"),
        ("'1e-3'", "1e-3"),
        ("2026-01-31", "2026-01-31"),
        ("1:30", "1:30"),
        ("=", "="),
        ("~", None),
    ],
)
def test_scalars_are_read_as_yaml_1_2(text, value):
    read = plain(f"a: {text}")["a"]
    assert read == value
    assert type(read) is type(value)


def test_infinity_is_a_number():
    assert plain("a: .inf")["a"] == math.inf


def test_the_key_on_needs_no_quotes():
    assert plain("{on: image}") == {"on": "image"}


def test_anchors_are_followed():
    assert plain("a: &x {b: 1}\nc: *x\n") == {"a": {"b": 1}, "c": {"b": 1}}


def test_a_merge_key_is_an_ordinary_key():
    assert plain("a: &x {b: 1}\nc: {<<: *x}\n")["c"] == {"<<": {"b": 1}}


def test_numbers_as_keys_are_words():
    assert plain("{1: a, 2: b}") == {"1": "a", "2": "b"}


def test_every_value_knows_its_line_and_path():
    tree = parse("a:\n  - b: 1\n  -\n    c:\n      2\n", SOURCE)
    found = [(node.path, node.source) for node in tree.walk()]
    assert found == [
        ("", "f:1"),
        ("a", "f:1"),
        ("a[0]", "f:2"),
        ("a[0].b", "f:2"),
        ("a[1]", "f:4"),
        ("a[1].c", "f:4"),
    ]


def test_a_mapping_as_key_is_a_problem():
    with pytest.raises(ConfigError, match=r"^f:2: \?: a key must be a plain word$"):
        parse("a: 1\n? {b: 1}\n: 2\n", SOURCE)


def test_a_wrong_explicit_tag_is_a_problem():
    with pytest.raises(ConfigError, match=r"^f:1: a: cannot be read as int, got 'many'$"):
        parse("a: !!int many", SOURCE)


def test_control_characters_are_not_yaml():
    with pytest.raises(ConfigError, match="f:1: not YAML"):
        parse("a: \x00", SOURCE)
