import json
import math

import pytest

from fastchat.serve.test_throughput import Sample, main, percentile, report


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (10, 1), (50, 5), (51, 6), (95, 10), (99, 10), (100, 10)]
)
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], percent) == expected


def test_rates_are_over_the_whole_run() -> None:
    samples = [Sample(first_s=0.1, total_s=1.0, n_tokens=30)] * 3
    result = report(samples, model="m", n_callers=2, seconds=2.0)
    assert (result.output_tokens, result.output_tokens_per_s) == (90, 45.0)
    assert result.requests_per_s == 1.5
    assert math.isclose(result.first_token_p95_s, 0.1)
    assert "Throughput (tokens/s): 45.0" in result.text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n-thread", "0"], "--n-thread 0: must be 1 or more."),
        (["--n-requests", "0"], "--n-requests 0: must be 1 or more."),
        (["--test-dispatch", "--worker", "http://x"], "leave out --worker-address"),
        (["--worker", "nonsense"], "nonsense"),
    ],
)
def test_bad_flags_are_one_line_and_status_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_nobody_there_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--worker-address", "http://127.0.0.1:1", "--json"]) == 1
    captured = capsys.readouterr()
    assert "Nobody answers at http://127.0.0.1:1" in captured.err
    assert captured.out == ""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["controller", "controller, each time", "server"])
def test_every_answer_of_a_platform_is_counted(
    echo_platform: dict[str, str], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--controller-address", echo_platform["controller"]]
    if place == "server":
        flags = ["--worker-address", echo_platform["server"]]
    elif place != "controller":
        flags.append("--test-dispatch")
    assert (
        main([*flags, "--n-thread", "3", "--n-requests", "7", "--json", "--message", "hello"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert (result["n_requests"], result["output_tokens"]) == (7, 7 * len("hello"))
    assert 0 < result["first_token_p50_s"] <= result["total_p50_s"] <= result["seconds"]


def test_a_refused_request_is_one_line_and_status_1(
    echo_platform: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--worker-address", echo_platform["server"], "--max-new-tokens", "1000000000"]
    assert main(flags) == 1
    error = capsys.readouterr().err
    assert "A request failed: " in error
    assert error.count("\n") == 1
