"""Measures the experiments of a case on every scored prompt, with their controls: rows of the table `evidence`.

`case_evidence` runs all of them. Each kind of experiment has a module (`perturbation`, `line_evidence`, `graph_tables`, `census`,
`score_evidence`, `sharing`, `operand_tables`, `mean_streams`, `sweep`). `case_context.CaseContext` holds what all of them need,
`outcomes` reads the outputs of a perturbed model, and `contrasts` computes evidence from other evidence.
"""
