"""Networks: segmentation and whole images, from smp, timm and papers; weights they start from."""
