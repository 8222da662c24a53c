"""Experiments of a case, measured on every scored prompt with their controls: rows of the table `evidence`.

`case_evidence` runs all of them; a kind of experiment is one module (`perturbation`, `line_evidence`, `graph_tables`, `census`, `sharing`,
`operand_tables`, `mean_streams`, `sweep`). `bench.Bench` holds what they all need, `outcomes` reads what a perturbed model says, and
`contrasts` computes evidence from evidence.
"""
