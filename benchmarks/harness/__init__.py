"""Parts of bench.py: the machine, the models, the original's path, the sections, and the page."""
