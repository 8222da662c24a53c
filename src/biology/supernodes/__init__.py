"""A case on a model before any perturbation: its prompts are run, its sites are found, and rules find the members of its
supernodes.

In this order: `behaviour.prompts_table`, `site_search.find_sites`, `grouping.group`; `site_parts.site_parts` then takes
the sites apart on held-out prompts. `operands` reads operand plots, `atlas` surveys all features of a model,
`named_members` ships the members for named prompts.
"""
