"""The method: prompted features, H-score, ensemble weights, composition and the class head.

Tensors in, tensors out: nothing here reads a file, logs, or knows of HTTP or Redis.
"""
