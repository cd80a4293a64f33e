"""Serving: many people's pictures from one model (`engine.py`), and the HTTP around it (`app.py`)."""
