"""The flat world: scenes of flat shapes, drawn, described in words, edited, and read back from
pixels.

It lies below everything else, because data draws it, benchmarks read it, and rewards will.
"""
