"""What a run of the Snakefile asks for. The Snakefile and `rules` hold the rules alone.

No torch. `targets.Targets` are the models, cases and files of a run, and the inputs of a rule that depend on its model.
"""
