"""Every test that docs/api.md names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_tests_that_the_document_names_are_there() -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    sources = {path.name: path for path in (ROOT / "tests").glob("**/test_*.py")}
    named = re.findall(r"`(?:tests/)?(?:\w+/)*(test_\w+\.py)(?:::(\w+))?`", text)
    assert len(named) > 60
    for file, test in named:
        assert file in sources, file
        if test:
            of_that_name = (ROOT / "tests").glob(f"**/{file}")
            assert any(f"def {test}(" in path.read_text("utf-8") for path in of_that_name), test
