"""Figures, drawn from tables alone.

No torch. `case_figures.FIGURES` are the figures that a case may list, `drawing` decides text and bytes, `paper.mplstyle` the
look, `figure_data` reads tables. A case's own `case.py` imports only from this room and from `biology.tables`.
"""
