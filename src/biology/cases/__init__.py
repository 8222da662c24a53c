"""What a case study says, and whether it fits together: prompts, rules, experiments, outcomes, controls, claims, mechanisms.

No torch. Read a case with `case.load_case`, its claims with `claim_file.load_claims`, its mechanism with `mechanism.load_mechanism`.
What may be written is stated once: outcomes in `measures`, kinds of experiment in `experiments`, rules in `rules`, token positions in
`positions`, figures in `figure_names`.
"""
