"""Evaluation pictures drawn with Pillow: real fonts with hinting and kerning, layouts of their own.

Only word lists, wordings and names are shared with training's generators, so a score here says that a model learnt the
task and not one renderer. `sets` is the table of sets; each other module draws one kind of picture.
"""
