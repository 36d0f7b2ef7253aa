"""Pictures in the arena: what is read, sent, kept, and refused."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_session import Session
from PIL import Image

from fastchat.errors import DataError, UnavailableError, UsageError
from fastchat.store.arena import ArenaStore
from fastchat.store.database import Database
from fastchat.web.images import LONGEST_SIDE, PictureFolder, read_picture, take_upload
from fastchat.web.texts import load_texts

WORDS = load_texts().arena


def png(width: int = 30, height: int = 20, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_is_made_small_and_written_anew() -> None:
    picture = read_picture(png(4000, 1000, "P"))
    assert (picture.width, picture.height) == (LONGEST_SIDE, 256)
    data = base64.b64decode(picture.data_url.removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).size == (1024, 256)
    assert picture.hash == read_picture(png(4000, 1000, "P")).hash
    assert picture.hash != read_picture(png(4000, 900, "P")).hash


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "no PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no PNG"),
        (png()[:45], "damaged|no PNG"),
        (png(8000, 8000), "megapixels"),
        (b"x" * (16 * 1024 * 1024), "MB"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        read_picture(data)


def test_only_uploads_are_read(tmp_path: Path) -> None:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    good, secret = uploads / "a.png", tmp_path / "secret.png"
    good.write_bytes(png())
    secret.write_bytes(png())
    (uploads / "link.png").symlink_to(secret)
    for path in (secret, uploads / ".." / "secret.png", uploads / "link.png", uploads, "x\0y"):
        with pytest.raises(DataError, match="not there"):
            take_upload(str(path), uploads)
    assert take_upload(str(good), uploads).width == 30


async def test_pictures_are_kept_under_their_hash_and_uploaded(tmp_path: Path, fake: Any) -> None:
    picture = read_picture(png())
    record = await PictureFolder(tmp_path).keep(picture, at=1.0)
    assert (tmp_path / f"{record.hash}.png").read_bytes() == picture.data
    storage = PictureFolder(None, storage_url=fake.root + "/bucket", token="t0ken")
    await storage.keep(picture, at=1.0)
    await storage.close()
    assert fake.stored == {f"/bucket/{record.hash}.png": picture.data}
    assert fake.headers[-1]["Authorization"] == "Bearer t0ken"
    away = PictureFolder(None, storage_url="http://127.0.0.1:1/bucket")
    with pytest.raises(UnavailableError):
        await away.keep(picture, at=1.0)
    await away.close()


@pytest.fixture
def session(serve_arena: Callable[..., str], fake: Any) -> Iterator[Session]:
    fake.models = [
        {"id": "seeing-a", "multimodal": True},
        {"id": "seeing-b", "input_modalities": ["text", "image"]},
        {"id": "blind"},
    ]
    fake.says_its_name = False
    opened = Session(serve_arena(vision=True, votes_per_minute=0))
    yield opened
    opened.close()


def upload(session: Session, data: bytes = b"", name: str = "p.png") -> dict[str, Any]:
    reply = session.http.post("/gradio_api/upload", files={"files": (name, data or png())})
    return {"path": reply.raise_for_status().json()[0], "meta": {"_type": "gradio.FileData"}}


def ask(session: Session, text: str, *files: dict[str, Any]) -> list[list[Any]]:
    message = {"text": text, "files": list(files)}
    return session.call("anonymous_send", None, message, 0.7, 1.0, 64)


@pytest.mark.slow
def test_a_battle_about_a_picture(session: Session, fake: Any, tmp_path: Path) -> None:
    steps = ask(session, "what is it", upload(session), upload(session, png(9, 9)))
    assert WORDS.one_picture in steps[-1][-1]
    assert {request["model"] for request in fake.requests} == {"seeing-a", "seeing-b"}
    parts = fake.requests[0]["messages"][-1]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url"]
    assert parts[1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert "data:image/png" in json.dumps(steps[-1])
    assert WORDS.thanks in session.vote("left")
    database = Database(str(tmp_path / "arena.db"))
    store = ArenaStore(database)
    [key] = [path.stem for path in (tmp_path / "logs" / "serve_images").iterdir()]
    columns = store.votes()
    assert columns.vision.all() and store.count()["images"] == 1
    battle = store.battle(columns.battle[0])
    assert battle is not None and battle.a.messages[0] == ("user", ["what is it", [key]])
    database.close()
    assert "seeing" not in session.everything


@pytest.mark.slow
def test_a_model_that_sees_nothing_gets_the_text_alone(session: Session, fake: Any) -> None:
    message = {"text": "look", "files": [upload(session)]}
    steps = session.call("direct_send", None, message, "blind", 0.7, 1.0, 64)
    assert WORDS.pictures_ignored in steps[-1][-1]
    assert fake.requests[-1]["messages"][-1]["content"] == "look"


@pytest.mark.slow
def test_files_that_were_not_uploaded_are_not_read(session: Session, fake: Any) -> None:
    steps = ask(session, "look", {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}})
    assert "root:" not in json.dumps(steps)
    assert fake.requests == []
    steps = ask(session, "look", upload(session, b"no picture"))
    assert "no PNG" in steps[-1][-1]


def test_examples_are_checked_when_they_are_read(tmp_path: Path) -> None:
    import random

    from fastchat.web.examples import read_examples

    (tmp_path / "p.png").write_bytes(png())
    file = tmp_path / "questions.json"
    rows = [{"dataset": "own", "question": "what?", "path": "p.png"}]
    file.write_text(json.dumps(rows), "utf-8")
    example = read_examples(file, rng=random.Random(1)).draw()
    assert example.question == "what?"
    [copied] = example.files()
    assert Path(copied["path"]).read_bytes() == png()
    for wrong in ([], {}, [{"question": "x"}], [{"question": "x", "path": "none.png"}]):
        file.write_text(json.dumps(wrong), "utf-8")
        with pytest.raises(UsageError, match="--random-questions"):
            read_examples(file, rng=random.Random(1))
