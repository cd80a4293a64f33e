"""Planning without running: accelerators, arithmetic, time and memory of drawing a picture."""
