"""What the measured processes run: a module for each contender, `serve` and `drive` in it.

Both print `{"ready": …}` once they can be used. A driver then answers each line `run` on its
standard input with one JSON object of figures, and ends with its input.
"""
