from hypothesis import given
from hypothesis import strategies as st

from convbody.detection.data.geometry import clip_box, flip_order, has_area


def test_boxes_are_cut_at_the_border():
    box = clip_box((-2, 3, 100, 4), height=30, width=40)
    assert box == (0, 3, 40, 7) and has_area(box, 30, 40)
    assert not has_area(clip_box((50, 3, 5, 4), height=30, width=40), 30, 40)


def test_what_float32_cannot_tell_from_nothing_has_no_area():
    assert not has_area((500, 500, 500.00001, 600), 1000, 1000)
    assert has_area((500, 500, 500.01, 600), 1000, 1000)


def test_left_and_right_keypoints_change_places():
    names = ["nose", "left_eye", "right_eye", "left_ear", "right_ear"]
    assert flip_order(names) == [0, 2, 1, 4, 3]
    assert flip_order(["left_hand"]) == [0], "without a partner it stays"


@given(
    st.lists(st.sampled_from(["nose", "left_eye", "right_eye", "left_hip", "right_hip", "tail"]), unique=True)
)
def test_mirroring_twice_restores_the_keypoints(names):
    order = flip_order(names)
    assert [order[i] for i in order] == list(range(len(names)))
