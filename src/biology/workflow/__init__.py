"""What the Snakefile asks for, so that it holds rules: `targets.Targets` are the models, cases and files of a run, and the inputs of a
rule that depend on its model. No torch.
"""
