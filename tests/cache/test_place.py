"""Every process of a data folder has a cache file of its own, as long as there are places."""

from pathlib import Path

from gateway.cache.place import CachePlace


def test_the_only_process_has_the_first_file(tmp_path: Path) -> None:
    with CachePlace(tmp_path, 1) as place:
        assert place.path == tmp_path / "cache.db"


def test_processes_that_run_at_once_have_different_files_until_every_place_is_taken(tmp_path: Path) -> None:
    places = [CachePlace(tmp_path, 2) for _ in range(5)]
    for place in places:
        place.__enter__()
    assert [place.path and place.path.name for place in places] == [
        "cache.db",
        "cache-1.db",
        "cache-2.db",
        "cache-3.db",
        None,
    ]
    for place in places:
        place.__exit__(None, None, None)


def test_a_place_that_was_given_back_is_taken_again(tmp_path: Path) -> None:
    with CachePlace(tmp_path, 1) as first, CachePlace(tmp_path, 1) as second:
        assert first.path != second.path
    with CachePlace(tmp_path, 1) as third:
        assert third.path == tmp_path / "cache.db"
