"""The fit worker: claims fits, loads their inputs, computes, publishes.

Serves no HTTP but its metrics.
"""
