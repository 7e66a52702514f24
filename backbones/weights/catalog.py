"""The published catalogue of Detectron's models: ``catalog://<name>`` in old configs."""

from __future__ import annotations

_ROOT = "https://dl.fbaipublicfiles.com/detectron"

_IMAGENET = {
    "MSRA/R-50": "MSRA/R-50",
    "MSRA/R-50-GN": "47261647/R-50-GN",
    "MSRA/R-101": "MSRA/R-101",
    "MSRA/R-101-GN": "47592356/R-101-GN",
    "FAIR/20171220/X-101-32x8d": "20171220/X-101-32x8d",
}

#: Model number and name -> when its training began, and a signature: both are part of the address.
_COCO = {
    "35857197/e2e_faster_rcnn_R-50-C4_1x": "01_33_49.iAX0mXvW",
    "35857345/e2e_faster_rcnn_R-50-FPN_1x": "01_36_30.cUF7QR7I",
    "35857890/e2e_faster_rcnn_R-101-FPN_1x": "01_38_50.sNxI7sX7",
    "36761737/e2e_faster_rcnn_X-101-32x8d-FPN_1x": "06_31_39.5MIHi1fZ",
    "35858791/e2e_mask_rcnn_R-50-C4_1x": "01_45_57.ZgkA7hPB",
    "35858933/e2e_mask_rcnn_R-50-FPN_1x": "01_48_14.DzEQe4wC",
    "35861795/e2e_mask_rcnn_R-101-FPN_1x": "02_31_37.KqyEK4tT",
    "36761843/e2e_mask_rcnn_X-101-32x8d-FPN_1x": "06_35_59.RZotkLKI",
    "37129812/e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x": "09_35_36.8pzTQKYK",
    "37697547/e2e_keypoint_rcnn_R-50-FPN_1x": "08_42_54.kdzV35ao",
}


def _coco_url(name: str, signature: str) -> str:
    number, model = name.split("/")
    tag = "keypoints_" if "keypoint" in model else ""
    data = f"{tag}coco_2014_train%3A{tag}coco_2014_valminusminival"
    run = f"{model}.yaml.{signature}"
    return f"{_ROOT}/{number}/12_2017_baselines/{run}/output/train/{data}/generalized_rcnn/model_final.pkl"


#: Name in the catalogue -> address of its ``.pkl``.
URLS = {
    **{
        f"ImageNetPretrained/{name}": f"{_ROOT}/ImageNetPretrained/{at}.pkl" for name, at in _IMAGENET.items()
    },
    **{f"Caffe2Detectron/COCO/{name}": _coco_url(name, signature) for name, signature in _COCO.items()},
}
