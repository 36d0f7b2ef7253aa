from collections.abc import Iterator

import pytest

from fastchat.errors import BodyTooLargeError
from fastchat.store.database import Database
from fastchat.store.files import FileStore


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def store(database_url: str) -> Iterator[FileStore]:
    database = Database(database_url)
    yield FileStore(database, max_key_bytes=20, now=Clock())
    database.close()


def write(store: FileStore, *parts: bytes, key_id: str | None = "k1", **more: float) -> str:
    found = store.write(iter(parts), filename="a.jsonl", purpose="batch", key_id=key_id, **more)
    assert found.bytes == sum(map(len, parts))
    return found.id


def test_a_file_is_kept_in_parts_for_its_key_alone(store: FileStore) -> None:
    file_id = write(store, b"\x00one", b"two")
    assert [store.part(file_id, i) for i in range(3)] == [b"\x00one", b"two", None]
    for other in ("k2", None):
        assert store.get(file_id, key_id=other) is None
        assert not store.delete(file_id, key_id=other)
        assert store.page(key_id=other, limit=5) == ([], False)
    assert store.delete(file_id, key_id="k1")
    assert store.get(file_id, key_id="k1") is None
    assert store.part(file_id, 0) is None


def test_pages_go_through_all_files_once(store: FileStore) -> None:
    ids = [write(store, b"x") for _ in range(5)]
    for newest_first, expected in ((True, ids[::-1]), (False, ids)):
        seen: list[str] = []
        more, after = True, None
        while more:
            page, more = store.page(
                key_id="k1", limit=2, newest_first=newest_first, after=after, purpose="batch"
            )
            seen += [file.id for file in page]
            after = seen[-1]
        assert seen == expected
    assert store.page(key_id="k1", limit=5, purpose="other") == ([], False)
    with pytest.raises(KeyError):
        store.page(key_id="k1", limit=5, after="none")


def test_the_files_of_a_key_have_a_limit_and_leave_nothing_when_they_pass_it(
    store: FileStore,
) -> None:
    first = write(store, b"x" * 15)
    with pytest.raises(BodyTooLargeError, match="20 bytes"):
        write(store, b"y" * 3, b"y" * 3)
    page, _ = store.page(key_id="k1", limit=5)
    assert [file.id for file in page] == [first]
    write(store, b"y" * 15, key_id="k2")
    write(store, b"y" * 5)


def test_a_file_that_has_expired_is_gone(store: FileStore) -> None:
    file_id = write(store, b"x", lasts_s=2.0)
    assert store.get(file_id, key_id="k1") is None
    write(store, b"y")
    assert store.part(file_id, 0) is None
