"""What settings are called in other tools, and here."""

import re

NAMES = {
    "lr": ("learning_rate", "base_lr", "lr0"),
    "decoder_lr": ("lr_multi", "head_lr"),
    "root": ("data_root", "data_dir", "dataset_root"),
    "batch": ("batch_size", "bs"),
    "steps": ("epochs", "num_epochs", "max_epochs", "max_iters", "max_steps"),
    "balance": ("class_weights",),
    "views": ("augmentation", "augmentations", "transforms"),
    "weights": ("pretrained",),
    "encoder": ("backbone", "encoder_name"),
    "crop": ("crop_size", "image_size", "img_size"),
    "classes": ("num_classes", "nclass"),
    "precision": ("amp", "fp16"),
    "workers": ("num_workers",),
    "decay": ("ema_decay", "momentum_teacher"),
    "device": ("gpus",),
    "ignore": ("ignore_index", "ignore_label"),
    "threshold": ("confidence_threshold", "conf_thresh"),
    "weight": ("lambda_u", "loss_weight"),
    "out": ("save_path", "output_dir", "work_dir"),
}
BOTH = {"batch": ("labelled", "unlabelled")}  # keys of what others give as one number
_HERE = {name: here for here, names in NAMES.items() for name in names}


def called_here(word: str) -> str:
    """The key of what other tools call `word`; empty: none is known."""
    return _HERE.get(re.sub(r"\W", "_", word.lower()), "")
