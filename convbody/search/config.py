"""Defaults of the keys that only the search reads (Wu et al. 2018, arXiv 1812.03443)."""

from __future__ import annotations

from typing import Any

from registry import config_section


@config_section("SEARCH", paths=("LATENCY.TABLE",))
def search_defaults() -> dict[str, Any]:
    """The space, the latency table, and how supernet and architecture are trained."""
    return {
        "SPACE": {
            # Channels and stride of the first convolution.
            "FIRST": (16, 2),
            # Rows of blocks [channels, repeats, stride]; only the first of a row has the stride.
            "BLOCKS": (
                [16, 1, 1],
                [24, 4, 2],
                [32, 4, 2],
                [64, 4, 2],
                [112, 4, 1],
                [184, 4, 2],
                [352, 1, 1],
            ),
            # What each block may be: names of FBNet primitives.
            "CANDIDATES": (
                "ir_k3_e1",
                "ir_k3_s2",
                "ir_k3_e3",
                "ir_k3_e6",
                "ir_k5_e1",
                "ir_k5_s2",
                "ir_k5_e3",
                "ir_k5_e6",
                "skip",
            ),
            # Small images would shrink to nothing: strides that the supernet has in their place, of the first
            # convolution and of each row; (): the same as in the architecture.
            "TRAIN_STRIDES": (),
        },
        # What the table of latencies is measured under; a table measured otherwise is refused.
        "LATENCY": {
            "TABLE": "",  # the file; relative to the working directory
            "DEVICE": "cpu",  # "cpu" | "cuda", or the whole name of a device, as in the table
            "THREADS": 1,  # on the CPU
            "BATCH": 1,  # images
            "PRECISION": "float32",  # "float32" | "bfloat16" | "float16"
            "SIZE": 224,  # side of the image, pixels
        },
        "EPOCHS": 90,
        "WARMUP_EPOCHS": 10,  # the first ones, which train weights alone
        "WEIGHT_SHARE": 0.8,  # of the images train weights, the others the choice
        # The loss of the choice: cross-entropy * ALPHA * log(latency in microseconds) ** BETA.
        "ALPHA": 0.2,
        "BETA": 0.6,
        # Microseconds that the expected latency is led to, by adapting BETA; 0: BETA stays.
        "TARGET_LATENCY": 0.0,
        "BETA_RATE": 0.05,  # with a target: BETA is multiplied by (latency / target) ** BETA_RATE each step
        "THETA_LR": 0.01,  # Adam
        "THETA_WEIGHT_DECAY": 0.0005,
        "TEMPERATURE": 5.0,  # of the Gumbel-softmax in the first epoch that trains the choice
        "TEMPERATURE_DECAY": 0.045,  # it is multiplied by exp(-this) after each epoch
        # "soft": all candidates of a block run, batched; "sampled": BRANCHES draws of them, with the same
        # expected gradient; "naive": all of them one by one.
        "FORWARD": "soft",
        "BRANCHES": 2,
        "TEST_EPOCHS": 1,  # evaluate the likeliest architecture so often; 0: only at the end
        "CHECKPOINT_EPOCHS": 1,  # 0: only at the end
    }
