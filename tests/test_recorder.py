"""A recorder passes everything on, keeps what fits its bounds, and gives its room back however the answer ends."""

from collections.abc import Sequence

import pytest

from gateway.recorder import Recorder, Room
from tests.clocked_gateway import Answer

HEAD = [(b"content-type", b"text/plain")]


async def told(recorder: Recorder, pieces: Sequence[bytes]) -> None:
    recorder.start(200, HEAD)
    for piece in pieces:
        recorder.write(piece)


async def test_it_keeps_what_it_passes_on_until_the_last_bytes_leave() -> None:
    answer, room = Answer(), Room(100)
    seen: list[bytes | None] = []

    async def before_end(recorder: Recorder) -> None:
        seen.append(recorder.body)
        assert not answer.body.endswith(b"end")

    recorder = Recorder(answer, room=room, bytes_max=11, before_end=before_end)
    await told(recorder, [b"one ", b"two "])
    assert recorder.body == b"one two "
    assert room.bytes_left == 92
    await recorder.end(b"end")
    assert seen == [b"one two end"]
    assert answer.body == b"one two end"
    assert room.bytes_left == 100


@pytest.mark.parametrize(
    ("bytes_max", "room"), [pytest.param(7, 100, id="its-own-bound"), pytest.param(100, 7, id="room-of-all")]
)
async def test_of_an_answer_above_a_bound_nothing_is_kept_and_all_is_passed_on(bytes_max: int, room: int) -> None:
    answer, shared = Answer(), Room(room)
    recorder = Recorder(answer, room=shared, bytes_max=bytes_max)
    await told(recorder, [b"four", b"four", b"x"])
    assert recorder.body is None
    assert shared.bytes_left == room
    await recorder.end()
    assert answer.body == b"fourfourx"


async def test_recorders_share_their_room() -> None:
    room = Room(6)
    first, second = (Recorder(Answer(), room=room, bytes_max=6) for _ in range(2))
    await told(first, [b"four"])
    await told(second, [b"four"])
    assert (first.body, second.body) == (b"four", None)
    first.close()
    first.close()
    assert room.bytes_left == 6


async def test_a_whole_answer_needs_no_room() -> None:
    seen: list[bytes | None] = []

    async def before_end(recorder: Recorder) -> None:
        seen.append(recorder.body)

    for body in (b"four", b"fives"):
        await Recorder(Answer(), room=Room(0), bytes_max=4, before_end=before_end).send(200, HEAD, body)
    assert seen == [b"four", None]


async def test_a_client_that_left_is_noticed_only_where_nobody_will_ask_again() -> None:
    gone = Answer(is_gone=True, is_stalled=True)
    outliving = Recorder(gone, room=Room(1), bytes_max=1, outlives_client=True)
    assert not outliving.is_gone
    assert not outliving.is_stalled
    assert Recorder(gone, room=Room(1), bytes_max=1).is_gone
