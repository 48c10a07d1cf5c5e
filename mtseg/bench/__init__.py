"""Measurements, each against a baseline of the same run, so that its ratios hold on any machine. A module each."""

WHAT = {  # what is measured; the modules are imported where they are asked for
    "step": "a training step against the forwards and backwards of its networks, and where its time goes",
    "waiting": "how long the steps of a run wait for their batches",
    "bf16": "the networks of a step in bfloat16 against float32",
    "loader": "labelled and unlabelled images from files to views, against the field's own pipelines",
    "ema": "the teacher's update against a copy of the same bytes",
    "warp": "the teacher's answer in the student's frame, against the teacher's forward",
    "loss": "the consistency loss against reading its inputs and writing its gradient",
    "confusion": "counting pixels by label and prediction, against numpy's ways",
    "eval": "an evaluation against the forwards of its network",
    "startup": "seconds to --help, and to the demo's first step",
    "names": "opening and holding long lists of files",
    "cache": "drawing views of files that are decoded each time against those of the cache",
}
