import json

import msgspec
import pytest

from convbody.data.errors import DataError
from convbody.detection.data.json_file import original_text, read_entries, split

EMPTY = b'{"images": [], "categories": []'


def decoded(entries):
    return [msgspec.json.decode(entry) for entry in entries]


def test_entries_are_handed_out_as_they_are():
    entries = split(
        b'{"info": {"year": 2024}, "images": [{"id": 1}, 7], "categories": [], "annotations": [[]]}', "a"
    )
    assert decoded(entries.images) == [{"id": 1}, 7]
    assert decoded(entries.annotations) == [[]]


@pytest.mark.parametrize("rest", [b"}", b', "annotations": null}'])
def test_a_file_without_annotations_is_a_list_of_images(rest):
    assert split(EMPTY + rest, "a").annotations == []


def test_nan_is_null_but_in_strings():
    text = 'x, NaN, " NaN ,'
    numbers = [float("nan"), float("inf"), -float("inf")]
    data = json.dumps({"images": [{"name": text, "n": [*numbers, text]}], "categories": []}).encode()
    entry = bytes(split(data, "a").images[0])
    assert msgspec.json.decode(entry, type=dict[str, msgspec.Raw])["n"] is not None
    assert entry.count(b"null") == 1 and entry.count(b"1e999") == 2
    assert entry.count(json.dumps(text).encode()) == 2


@pytest.mark.parametrize("name", ["caf\udce9.png", "\udcff\udcfe", "\\\udce9", "\U0001f600", "\\udce9"])
def test_names_that_are_not_utf_8_survive(name):
    data = json.dumps({"images": [name], "categories": []}).encode()
    assert original_text(decoded(split(data, "a").images)[0]) == name


def test_a_byte_order_mark_is_passed_over():
    assert split(b"\xef\xbb\xbf" + EMPTY + b"}", "a").images == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "not JSON"),
        (b"[]", 'no list "images"'),
        (b"5", 'no list "images"'),
        (b'{"images": []}', 'no list "categories"'),
        (EMPTY + b', "annotations": {}}', 'no list "annotations"'),
        (EMPTY + b', "annotations": [{"id": 1}, {"id"', "not JSON"),
        (EMPTY + b"} {", "not JSON"),
        (EMPTY + b', "x": ' + b"[" * 10**6, "deeply"),
        (EMPTY + b', "x": [1, 2], "images": []}', '"images" twice'),
        (b'{"categories": [1], ' + EMPTY[1:] + b"}", '"categories" twice'),
        (EMPTY + b', "x": NaN', "not JSON"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"PK\x03\x04rest", "zip"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b'{"\xe9": 1}', "UTF-8"),
    ],
)
def test_another_format_is_named_in_one_line(content, says):
    with pytest.raises(DataError, match=says) as caught:
        split(content, "some.json")
    assert "some.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=f"cannot read annotation file {tmp_path}"):
        read_entries(tmp_path)
