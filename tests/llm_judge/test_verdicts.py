import pytest

from fastchat.llm_judge.verdicts import as_text, better_of, parse_verdict, schema_of


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Good. Rating: [[7]]", 7),
        ("Rating: [[7.5]]", 7.5),
        ("Rating: [8]", 8),
        ("You asked for [[5]]; I say Rating: [[9]]", 9),
        ("[3] and then [[4]]", 4),
        ("<think>[[2]] perhaps</think> Rating: [[6]]", 6),
        ("no opening mark [[2]]</think>Rating: [[6]]", 6),
        ("评分：[[8]]", 8),
        ('{"explanation": "fine [[3]]", "rating": 8}', 8),
        ('```json\n{"explanation": "x", "rating": 2.5}\n```', 2.5),
        ("Rating: [[10]]", 10),
        ("Rating: [[1]]", 1),
    ],
)
def test_a_grade_is_the_last_number_in_brackets(text: str, score: float) -> None:
    assert parse_verdict(text, "[[rating]]").score == score


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty reply"),
        ("  \n", "empty reply"),
        ("I would say seven.", "no rating like [[5]]"),
        ("Rating: 7", "no rating like [[5]]"),
        ("Rating: [[11]]", "a rating outside 1 to 10"),
        ("Rating: [[0]]", "a rating outside 1 to 10"),
        ("<think>[[7]]</think>", "reasoning without an answer"),
        ("<think>so [[7]] or", "reasoning without an answer"),
        ("Rating: [[sieben]]", "no rating like [[5]]"),
        ('{"rating": 99}', "a rating outside 1 to 10"),
        ('{"rating": true}', "no rating like [[5]]"),
        ('{"rating": "7"}', "no rating like [[5]]"),
    ],
)
def test_what_is_no_grade_has_a_reason_and_no_number(text: str, reason: str) -> None:
    verdict = parse_verdict(text, "[[rating]]")
    assert (verdict.score, verdict.reason) == (None, reason)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("[[A]]", "A"),
        ("Not [[A]], I conclude [[B]]", "B"),
        ("Both. [[C]]", "tie"),
        ('{"explanation": "[[A]]", "verdict": "B"}', "B"),
        ('{"explanation": "cut off, but [[A]]', "A"),
        ("A is better", None),
        ("[[D]]", None),
        ("[A]", None),
        ("", None),
    ],
)
def test_a_pairs_verdict_is_the_last_letter(text: str, pair: str | None) -> None:
    verdict = parse_verdict(text, "[[A]]")
    assert verdict.pair == pair
    assert (verdict.reason is None) == (pair is not None)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("[[7,5]]", "A"),
        ("[[7, 7.1]]", "tie"),
        ("[5,6.5]", "B"),
        ("[[1,9]] no, [[9,1]]", "A"),
        ("[[7]]", None),
    ],
)
def test_two_grades_decide_a_pair(text: str, pair: str | None) -> None:
    assert parse_verdict(text, "[[rating_a,rating_b]]").pair == pair


def test_grades_within_a_tenth_tie() -> None:
    assert better_of(8.0, 8.1) == "tie"
    assert better_of(8.0, 8.2) == "B"
    assert better_of(8.2, 8.0) == "A"


def test_a_structured_reply_is_kept_in_the_published_words() -> None:
    text = as_text('{"explanation": "Good.", "rating": 8}', "[[rating]]")
    assert text == "Good.\n\nRating: [[8]]"
    assert as_text('{"explanation": "E", "verdict": "C"}', "[[A]]") == "E\n\n[[C]]"
    assert as_text("plain [[A]]", "[[A]]") == "plain [[A]]"
    assert parse_verdict(text, "[[rating]]").score == 8


def test_the_schema_asks_for_the_explanation_first() -> None:
    schema = schema_of("[[rating]]")
    assert schema is not None
    assert list(schema["properties"]) == schema["required"] == ["explanation", "rating"]
    assert schema_of("[[rating_a,rating_b]]") is None
