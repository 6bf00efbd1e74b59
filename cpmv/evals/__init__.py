"""Evaluation: frozen picture and clip sets, the metrics, the controls, and runs that end in one JSON.

`draw` makes the sets with Pillow, `samples` stores them, `tasks` says what each set is and its bar, `run` asks a model,
`scoring` and `controls` judge the answers, `report` writes the tables.
"""
