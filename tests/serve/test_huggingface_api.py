import pytest

from fastchat.serve.huggingface_api import main


def test_question_and_answer_are_printed_as_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model-path", "echo:", "--message", "Say it."]) == 0
    assert capsys.readouterr().out == "Human: Say it.\nAssistant: Say it.\n"


@pytest.mark.parametrize("flag", ["--model", "--model-name"])
def test_the_published_short_flags_name_the_model(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([flag, "echo:", "--message", "x", "--repetition_penalty", "1.1"]) == 0
    assert capsys.readouterr().out.endswith("Assistant: x\n")


def test_a_failing_model_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model-path", "echo:fail_on=boom", "--message", "boom"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "fastchat.serve.huggingface_api: The echo engine failed as it was told to.\n"
    )


def test_a_question_too_long_for_the_model_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model-path", "echo:context=8", "--message", "much too long"]) == 2
    assert "Shorten the prompt." in capsys.readouterr().err
