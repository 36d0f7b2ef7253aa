"""The help of every command answers without heavy libraries, and names the published flags."""

import pytest
from help_pages import HelpPage, help_pages

pytestmark = pytest.mark.xdist_group("eval_help")

HEAVY = {"torch", "transformers", "gradio", "fastapi", "openai", "numpy", "scipy", "aiohttp"}
PUBLISHED = {
    "qa_baseline_gpt35": "-q --question -o --output --max-tokens",
    "model_qa": "--model-name --question-file --answer-file",
    "get_model_answer": "--model-path --model-id --question-file --answer-file --num-gpus",
    "eval_gpt_review": "-q --question-file --question -a --answer-file-list --answer-list -p "
    "--prompt-file -r --reviewer-file --rule -o --output-review-file --output --max-tokens",
    "generate_webpage_data_from_table": "--input --output",
    "review_totals": "--input --json",
}


@pytest.fixture(scope="module")
def pages() -> dict[str, HelpPage]:
    return help_pages(f"fastchat.eval.{command}" for command in PUBLISHED)


@pytest.mark.parametrize("command", PUBLISHED)
def test_help_is_light_and_has_the_published_flags(
    pages: dict[str, HelpPage], command: str
) -> None:
    page = pages[f"fastchat.eval.{command}"]
    assert page.status == 0 and HEAVY & page.imported == set(), page.text
    assert set(PUBLISHED[command].split()) <= page.words
    assert "--no-cache" not in page.words  # these commands keep no cache to pass by
