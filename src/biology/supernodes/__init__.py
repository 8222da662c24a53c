"""A case on a model before anything is perturbed: its prompts run, its sites found, the members of its supernodes by rule.

`behaviour.prompts_table`, `site_search.find_sites` and `grouping.group`, in this order. `operands` reads operand plots, `atlas` surveys
all features of a model, `named_members` ships the members of named prompts.
"""
