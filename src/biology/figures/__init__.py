"""Figures, drawn from tables and from nothing else.

No torch. `case_figures.FIGURES` are those that a case may list, `drawing` decides text and bytes, `paper.mplstyle` the look,
`figure_data` reads tables. A case's own `case.py` imports from this room and from `biology.tables` only.
"""
