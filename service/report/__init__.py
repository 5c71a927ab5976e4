"""The report of a fit: what it shows, in which order, and the templates that draw it.

`page` renders `sections`; these are made of `tables` and `charts` from `data`, the result document.
"""
