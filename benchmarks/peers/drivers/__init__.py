"""One module a peer, which says how its own documentation does a training step and an evaluation.

A module has `PACKAGE`, the distribution whose version is reported; `STEPS`, by training method a function from a
`Setting` to a call that makes one step; `EVALUATIONS`, by attack a function from a `Setting` to a call that gives a
mask of the images that the model still gets right. Only it imports its library.
"""
