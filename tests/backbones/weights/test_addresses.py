"""What MODEL.WEIGHT may say, and what it may not: each mistake is one line."""

import pytest

from backbones.weights import source
from backbones.weights.read import read_weights
from backbones.weights.source import Place, place
from registry import ConfigError, load_cfg


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The addresses that a download was asked for; none is reached."""
    monkeypatch.setenv("CONVBODY_WEIGHTS", str(tmp_path / "cache"))
    addresses = []

    def fail(url, timeout):
        addresses.append(url)
        raise OSError("no route")

    monkeypatch.setattr(source, "urlopen", fail)
    return addresses


@pytest.mark.parametrize(
    ("weight", "parts"),
    [
        ("w.pth", ("w.pth", "", "")),
        ("w.pth#ema", ("w.pth", "ema", "")),
        ("runs/#3/w.pth#ema.module", ("runs/#3/w.pth", "ema.module", "")),
        ("w.pth#sha256=12", ("w.pth", "sha256=12", "")),  # no address: a dictionary with an odd name
        ("https://h/w.pth#sha256=12AB", ("https://h/w.pth", "", "12ab")),
        ("https://h/w.pth#ema#sha256=12", ("https://h/w.pth", "ema", "12")),
        ("https://h/w.pth#sha256=12#ema", ("https://h/w.pth", "ema", "12")),
        ("timm://resnet50.a1_in1k#ema", ("timm://resnet50.a1_in1k", "ema", "")),
    ],
)
def test_a_dictionary_and_a_checksum_stand_behind_the_place(weight, parts):
    assert place(weight) == Place(*parts)


@pytest.mark.parametrize(
    "weight",
    [
        *("https://", "https:///x.pth", "https://host", "https://host/", "https://[::1/x.pth"),
        *("https://host:port/x.pth", "https://host:99999/x.pth", "https://host:0/x.pth", "http:/x"),
        *(
            "https://host/" + "x" * 300 + ".pth",
            "https://" + "\u00e9" * 100 + "/x.pth",
            "https://\u00fc..b/x.pth",
        ),
        *("https://h/a.pth#sha256=1#sha256=2", "https://h/a.pth#a#b", "https://h/a.pth##", "w.pth#"),
        *(
            "https://host/\udce9.pth",
            "https://h\udce9/x.pth",
            "://x",
            "file:///etc/passwd",
            "HTTPS://host/x.pth",
        ),
        *(
            "catalog://",
            "torchvision://",
            "torchvision://?weights=",
            "torchvision://a\nb",
            "timm://",
            "timm://../x",
        ),
        *("~nobody-of-this-name/x.pth", "$NO_SUCH_VARIABLE/x.pth", "a\0b.pth", "x" * 5000 + ".pth"),
        *("/dev/zero", "", "a\nb.pth", "\udce9.pth"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_fetched(asked, weight):
    with pytest.raises(ConfigError) as caught:
        read_weights(weight, load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "R-50"]))
    assert asked == [] and "\n" not in str(caught.value) and "MODEL.WEIGHT" in str(caught.value)


@pytest.mark.parametrize(
    ("weight", "address"),
    [
        (
            "https://h\u00f6st.example/\u00fc/\u00e4 b.pth?x=\u00fc#ema",
            "https://xn--hst-sna.example/%C3%BC/%C3%A4%20b.pth?x=%C3%BC",
        ),
        ("https://me:p\u00e4@host:8080/x.pth", "https://me:p%C3%A4@host:8080/x.pth"),
        ("https://host/a%2Fb.pth?c=d%20e&f", "https://host/a%2Fb.pth?c=d%20e&f"),
    ],
)
def test_other_letters_are_written_as_servers_take_them(asked, weight, address):
    with pytest.raises(ConfigError, match="no route"):
        read_weights(weight)
    assert asked == [address]
