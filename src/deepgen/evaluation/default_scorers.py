"""The scorers that benchmarks use unless others are named; apart, as a config needs only the names."""

DETECTOR = "facebook/mask2former-swin-small-coco-instance"
CLIP = "openai/clip-vit-large-patch14"
OCR = "rapidocr"
