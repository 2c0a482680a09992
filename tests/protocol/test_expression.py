"""The arithmetic of retry delays (contract 3.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtasks.errors import InvalidValue
from qtasks.protocol.expression import DAY_MS, MAX_DEPTH, MAX_LENGTH, Expression, parse_expression


@pytest.mark.parametrize(
    ("text", "delays"),
    [
        ("1000", [1000, 1000, 1000]),
        ("1000 * (1 + retried)", [1000, 2000, 3000]),
        ("pow(2, retried) * 1000", [1000, 2000, 4000]),
        ("pow(retried, 2) * 1000", [0, 1000, 4000]),
        ("max(1000, pow(2, retried) * 100)", [1000, 1000, 1000, 1000, 1600]),
        ("min(retried * 1000, 1500, 9e3)", [0, 1000, 1500]),
    ],
)
def test_the_documented_samples_give_the_documented_delays(text: str, delays: list[int]) -> None:
    expression = parse_expression(text)

    assert [expression.delay_ms(each) for each in range(len(delays))] == delays


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1+2*3", 7),
        ("(1+2)*3", 9),
        ("10-2-3", 5),
        ("100/10/2", 5),
        ("7%4", 3),
        ("abs(-7 % 4)", 3),
        ("2*-3 + 10", 4),
        ("10 - -2", 12),
        ("+5", 5),
        ("1.5e3", 1500),
        ("25E-1", 2),
        ("abs(-4)", 4),
        ("sqrt(16)", 4),
        ("floor(2.9)", 2),
        ("ceil(2.1)", 3),
        ("round(2.5)", 3),
        ("abs(round(-2.5))", 3),
        ("round(2.4)", 2),
        ("floor(exp(1) * 1000)", 2718),
        ("max(3)", 3),
        ("1.999", 1),
        ("\t7 ", 7),
    ],
)
def test_arithmetic_is_the_usual_one(text: str, ms: int) -> None:
    assert parse_expression(text).delay_ms(0) == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0 - 5", 0),
        ("0/0", 0),
        ("5 % 0", 0),
        ("sqrt(-1)", 0),
        ("pow(-8, 0.5)", 0),
        ("max(1, 0/0)", 0),
        ("-1/0", 0),
        ("1/0", DAY_MS),
        ("floor(1/0)", DAY_MS),
        ("round(1/0)", DAY_MS),
        ("1 / -0", 0),
        ("pow(0, -1)", DAY_MS),
        ("pow(-10, 999)", 0),
        ("pow(-10, 998)", DAY_MS),
        ("pow(9e99, 9e99)", DAY_MS),
        ("exp(1000)", DAY_MS),
        ("1e999", DAY_MS),
        ("86400001", DAY_MS),
    ],
)
def test_what_is_no_finite_delay_becomes_none_or_a_day(text: str, ms: int) -> None:
    assert parse_expression(text).delay_ms(0) == ms


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", 'a number, "retried", a function or "(" at character 1, found the end'),
        ("1 +", "at character 4, found the end"),
        ("1 2", 'expected an operator at character 3, found "2"'),
        ("2retried", "an operator at character 2"),
        ("2 ** 3", 'character 4, found "*"'),
        ("2 ^ 3", 'an operator at character 3, found "^"'),
        ("--1", "at character 2"),
        ("1.", "an operator at character 2"),
        (".5", "at character 1"),
        ("0x10", 'found "x10"'),
        ("(1", 'expected ")" at character 3, found the end'),
        ("1)", 'an operator at character 2, found ")"'),
        ("retries", 'found "retries"'),
        ("Retried", 'found "Retried"'),
        ("pow", 'expected "("'),
        ("pow(2)", "expected 2 arguments of pow, not 1"),
        ("abs(1, 2)", "expected 1 argument of abs, not 2"),
        ("max()", 'found ")"'),
        ("__import__('os')", 'found "__import__"'),
        ("1;1", 'found ";"'),
        ("\uff11", "at character 1"),
    ],
)
def test_a_syntax_error_says_what_was_expected_where(text: str, complaint: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_expression(text)

    assert str(caught.value).startswith(f'invalid expression "{text}": expected ')
    assert complaint in str(caught.value)


def test_an_expression_keeps_its_text_and_equals_another_of_the_same() -> None:
    assert parse_expression("1 +  1").text == "1 +  1"
    assert parse_expression("1 +  1") == Expression("1 +  1", ())


def test_length_is_bounded() -> None:
    assert parse_expression("1".rjust(MAX_LENGTH)).delay_ms(0) == 1

    with pytest.raises(InvalidValue, match="longer than 256"):
        parse_expression("1".rjust(MAX_LENGTH + 1))


@pytest.mark.parametrize(("opening", "closing"), [("(", ")"), ("abs(", ")")])
def test_depth_is_bounded(opening: str, closing: str) -> None:
    assert parse_expression(opening * MAX_DEPTH + "1" + closing * MAX_DEPTH).delay_ms(0) == 1

    with pytest.raises(InvalidValue, match="nested deeper than 32"):
        parse_expression(opening * (MAX_DEPTH + 1) + "1" + closing * (MAX_DEPTH + 1))


def _composed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from("+-*/%"), inner).map(" ".join),
        st.tuples(st.sampled_from(["exp", "sqrt", "abs", "floor", "ceil", "round", "-", "+", ""]), inner).map(
            lambda pair: f"{pair[0]}({pair[1]})"
        ),
        st.tuples(st.sampled_from(["pow", "min", "max"]), inner, inner).map(
            lambda parts: f"{parts[0]}({parts[1]}, {parts[2]})"
        ),
    )


@given(
    st.recursive(st.sampled_from(["0", "1", "2.5", "1e308", "1e-308", "retried"]), _composed, max_leaves=12),
    st.integers(0, 10**6),
)
def test_every_expression_gives_a_delay_of_at_most_a_day(text: str, retried: int) -> None:
    if len(text) <= MAX_LENGTH:
        assert 0 <= parse_expression(text).delay_ms(retried) <= DAY_MS


@given(st.text() | st.text("0123456789.eE+-*/%(), \tretidpowmax", max_size=40))
def test_any_text_is_an_expression_or_invalid(text: str) -> None:
    try:
        delay_ms = parse_expression(text).delay_ms(1)
    except InvalidValue:
        return

    assert 0 <= delay_ms <= DAY_MS
