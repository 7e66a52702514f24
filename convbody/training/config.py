"""Defaults of the sections that training reads: SOLVER, and the keys of a run as a whole."""

from __future__ import annotations

from typing import Any

from registry import config_section
from registry.allowed import above, at_least, between, each


@config_section(
    "SOLVER",
    allowed={
        "BASE_LR": at_least(0.0),
        "BIAS_LR_FACTOR": at_least(0.0),
        "LAYER_DECAY": at_least(0.0),
        "MOMENTUM": between(0.0, 1.0),
        "BETAS": each(between(0.0, 0.9999999), 2),
        "WEIGHT_DECAY": at_least(0.0),
        "WEIGHT_DECAY_BIAS": at_least(0.0),
        "GAMMA": at_least(0.0),
        "END_FACTOR": at_least(0.0),
        "WARMUP_FACTOR": at_least(0.0),
        "WARMUP_ITERS": at_least(0),
        "CLIP_GRADIENTS.CLIP_VALUE": above(0.0),
        "CLIP_GRADIENTS.NORM_TYPE": above(0.0),
        "EMA.DECAY": between(0.0, 1.0),
        "PRECISE_BN.BATCHES": at_least(1),
    },
)
def solver_defaults() -> dict[str, Any]:
    """Optimiser, schedule, checkpoints. Periods count iterations: steps of the optimiser."""
    return {
        "MAX_ITER": 40000,  # length of the run
        "IMS_PER_BATCH": 16,  # images of one batch, over all processes
        "ACCUMULATE": 1,  # batches whose gradients are averaged into one iteration
        "PARALLEL": "ddp",  # several processes: "ddp", each has the model | "fsdp", each has a part of it
        "OPTIMIZER": "SGD",  # "SGD" | "AdamW"
        "BASE_LR": 0.001,  # learning rate after warm-up, for weights
        "BIAS_LR_FACTOR": 2.0,  # learning rate of biases, as a multiple of a weight's
        "LAYER_DECAY": 1.0,  # factor of the learning rate from each backbone stage to the one before
        "MOMENTUM": 0.9,  # SGD
        "NESTEROV": False,  # SGD
        "BETAS": (0.9, 0.999),  # AdamW
        "WEIGHT_DECAY": 0.0005,
        "WEIGHT_DECAY_BIAS": 0.0,
        "WEIGHT_DECAY_NORM": -1.0,  # of one-dimensional weights (scales of norm layers); < 0: as WEIGHT_DECAY
        "SCHEDULE": "multistep",  # "multistep" | "cosine"
        "GAMMA": 0.1,  # multistep: the learning rate is multiplied by this at each of STEPS
        "STEPS": (30000,),  # multistep: increasing; those at or after MAX_ITER never come
        "END_FACTOR": 0.0,  # cosine: learning rate at MAX_ITER, as a multiple of BASE_LR
        "WARMUP_METHOD": "linear",  # "linear" | "constant"
        "WARMUP_FACTOR": 1.0 / 3,  # the first iteration's learning rate is multiplied by this
        "WARMUP_ITERS": 500,  # from here on there is no warm-up factor
        "CLIP_GRADIENTS": {
            "ENABLED": False,
            "CLIP_TYPE": "norm",  # "norm": of all gradients together | "value": each element
            "CLIP_VALUE": 1.0,  # largest norm, or largest absolute value
            "NORM_TYPE": 2.0,  # the p of the norm
        },
        "EMA": {
            "ENABLED": False,  # evaluate and keep an exponential moving average of the weights
            "DECAY": 0.9998,  # per iteration, approached as (1 + n) / (10 + n) from below
        },
        "PRECISE_BN": {
            "ENABLED": False,  # evaluate, and keep in best.pth, with batch-norm statistics computed afresh
            "BATCHES": 200,  # of training images, that they are of
        },
        "CHECKPOINT_PERIOD": 2500,  # 0: only at the end; one is also saved before each evaluation
        "KEEP_CHECKPOINTS": 3,  # newest ones kept beside best.pth; 0 or less: all
        "TEST_PERIOD": 0,  # evaluate so often; 0: only at the end
        "BEST_METRIC": "",  # best.pth has the highest; "": the first metric that the evaluation gives
        "LOG_PERIOD": 20,  # one progress line and one row of metrics.jsonl so often
        "TENSORBOARD": True,  # write OUTPUT_DIR/tensorboard
    }


@config_section("", paths=("OUTPUT_DIR",), allowed={"SEED": between(-(2**62), 2**62)})
def run_defaults() -> dict[str, Any]:
    """Keys of a run as a whole."""
    return {
        "OUTPUT_DIR": ".",  # where a run writes everything
        "SEED": 0,  # of every random choice: initial weights, order of images, augmentation, dropout
        "DTYPE": "float32",  # "float32" | "bfloat16" | "float16": of autocast; float16 scales the loss
        "AMP_VERBOSE": False,  # log every change of the float16 loss scale
        "PATHS_CATALOG": "",  # accepted for old files, without effect: data sets are listed in DATASETS
    }


@config_section("MODEL")
def model_defaults() -> dict[str, Any]:
    """Where the model runs."""
    return {"DEVICE": "cuda"}  # "cuda" (the CPU where there is no GPU) | "cuda:N" | "cpu"
