import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from convbody.detection.data.prepare.tiles import Window, clip_boxes, cover, partition

sides = st.integers(1, 300)


def painted(windows, width, height):
    counts = np.zeros((height, width), int)
    for left, top, right, bottom in windows:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        counts[top:bottom, left:right] += 1
    return counts


@given(sides, sides, st.integers(8, 100))
def test_a_partition_holds_every_pixel_once(width, height, tile):
    windows = partition(width, height, tile)
    assert (painted(windows, width, height) == 1).all()
    for left, top, right, bottom in windows:
        assert right - left <= 1.5 * tile and bottom - top <= 1.5 * tile


@given(sides, sides, st.integers(8, 100), st.data())
def test_a_cover_holds_every_pixel_in_equal_tiles_that_overlap(width, height, tile, data):
    overlap = data.draw(st.integers(0, tile - 1))
    windows = cover(width, height, tile, overlap)
    assert (painted(windows, width, height) >= 1).all()
    assert {(w.right - w.left, w.bottom - w.top) for w in windows} == {(min(tile, width), min(tile, height))}
    lefts = sorted({window.left for window in windows})
    assert all(right - left <= tile - overlap for left, right in zip(lefts, lefts[1:], strict=False))


def test_boxes_are_counted_from_the_tile_and_cut_at_its_border():
    boxes = np.array([[110.0, 60, 130, 80], [90, 60, 110, 80], [300, 300, 310, 310]])
    window = Window(100, 50, 200, 150)
    assert clip_boxes(boxes, window, 0.5).tolist() == [[10, 10, 30, 30], [0, 10, 10, 30]]
    assert clip_boxes(boxes, window, 0.6).tolist() == [[10, 10, 30, 30]]
    assert clip_boxes(boxes[2:], window, 0.0).shape == (0, 4), "one that only is elsewhere never stays"
    assert clip_boxes(np.zeros((0, 4)), window, 0.5).shape == (0, 4)
