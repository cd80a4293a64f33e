"""What work costs before it is done: accelerators, arithmetic, time and memory of drawing a picture."""
