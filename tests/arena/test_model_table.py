from pathlib import Path

import pytest

from fastchat.arena.model_table import read_model_table
from fastchat.errors import DataError

HEAD = (
    "key,Model,MT-bench (score),MT-bench (win rate %),Arena Elo rating,MMLU,License,"
    "Organization,Link,Knowledge cutoff date\n"
)


def test_quoted_commas_belong_to_their_field_and_dashes_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(HEAD + 'm,"M, the model",6.5,-,-,0.45,"MIT, mostly",Us,https://x.org,2023/1\n')
    info = read_model_table(path)["m"]
    assert (info.name, info.mt_bench, info.mmlu) == ("M, the model", 6.5, 0.45)
    assert (info.license, info.organization, info.link) == ("MIT, mostly", "Us", "https://x.org")
    path.write_text(HEAD + "m,-,-,-,-,-,-,-,javascript:alert(1),-\n")
    info = read_model_table(path)["m"]
    assert (info.name, info.link, info.mt_bench, info.knowledge_cutoff) == ("m", "", None, "")


@pytest.mark.parametrize(("text", "words"), [("a,b\n", "no column key"), (HEAD + "m,M,x\n", "'x'")])
def test_a_table_that_is_wrong_is_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_model_table(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_model_table(tmp_path / "missing.csv")
