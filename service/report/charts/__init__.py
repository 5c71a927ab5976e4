"""Geometry of the report's charts; the templates draw it as SVG.

Whatever a chart shows by colour it also shows in another way: by shape, by hatching or in words.
The charts know nothing of the result document: what they draw says here what it must have.
"""
