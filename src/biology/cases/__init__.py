"""The contents of a case study, and their checks: prompts, rules, experiments, outcomes, controls, claims, mechanisms.

No torch. Read a case with `case.load_case`, its claims with `claim_file.load_claims`, its mechanism with
`mechanism.load_mechanism`. Each vocabulary is defined once: outcomes in `measures`, kinds of experiment in `experiments`, rules in
`rules`, token positions in `positions`, figures in `figure_names`.
"""
